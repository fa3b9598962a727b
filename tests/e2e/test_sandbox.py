"""Programs that a model wrote, in a pod under the Pod Security Standard "restricted" with the trainer's image."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.project import ROOT, TRAINER_IMAGE
from tests.e2e.tenant import SECRET, Team
from tests.unit.sandbox.zoo import HARMLESS, ZOO, Animal

_MBPP = ROOT.parent / "shared/data/mbpp"
_SECONDS = 300
_POD = "sandbox"
_SCRIPT = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from promptintern.sandbox.process import Limits, find_isolation, run_program

def run(case):
    program, tests, setup, seconds = case
    outcome = run_program(program, tests, setup=setup, limits=Limits(seconds=seconds))
    return outcome.verdict, outcome.message

assert find_isolation().is_complete, find_isolation()
with ThreadPoolExecutor(2) as threads:
    print(json.dumps(list(threads.map(run, json.load(sys.stdin)))))
"""


_SCORERS = """
import os, socket, subprocess

def good(query, answers, prediction):
    return 100.0 * (prediction in answers)

def reads_the_token(query, answers, prediction):
    open("/var/run/secrets/kubernetes.io/serviceaccount/token").read()
    return 1

def connects(query, answers, prediction):
    socket.create_connection((os.environ.get("KUBERNETES_SERVICE_HOST", "10.96.0.1"), 443), 5)
    return 1

def forks(query, answers, prediction):
    subprocess.run(["true"])
    return 1

def sees_the_key(query, answers, prediction):
    return os.environ["KEY"] and 1
"""
_SCORE_SCRIPT = """
import json, pathlib, sys
from promptintern.sandbox.process import find_isolation
from promptintern.sandbox.scorer import score_rows
from promptintern.sandbox.scorer_process import ScoredRow
from promptintern_api.metrics import Scorer

folder = pathlib.Path("/tmp/code")
folder.mkdir(exist_ok=True)
(folder / "pod_scores.py").write_text(sys.stdin.read())
program = folder / "score.py"
sys.path.insert(0, str(folder))
rows = [ScoredRow(query="q", answers=["a"], prediction=text) for text in ("a", "b")]
names = ("good", "reads_the_token", "connects", "forks", "sees_the_key")
found = {name: score_rows(rows, Scorer(entry_point=f"pod_scores:{name}"), find_isolation()).numbers for name in names}
program.write_text("import json, sys\\nfor line in sys.stdin: print(len(json.loads(line)['prediction']), flush=True)")
found["command"] = score_rows(rows, Scorer(command=["python", str(program)]), find_isolation()).numbers
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def pod(team: Team) -> str:
    """Start a pod like that of a worker, with a mounted token and a Secret in its environment."""
    container = {
        "name": "python",
        "image": TRAINER_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sleep", "infinity"],
        "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "AWS_SECRET_ACCESS_KEY"}}}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": {"limits": {"memory": "2Gi"}},
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    spec = {"containers": [container], "volumes": [{"name": "scratch", "emptyDir": {}}], "restartPolicy": "Never"}
    metadata = {"name": _POD, "namespace": team.namespace}
    team.cluster.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}])
    team.cluster.kubectl(
        *("wait", "pod", _POD, "--namespace", team.namespace, "--for=condition=Ready", f"--timeout={_SECONDS}s")
    )
    return _POD


def run_in(team: Team, pod: str, cases: list[tuple[str, list[str], str, float]]) -> list[list[str]]:
    """Run programs in the pod, and return the verdict and the message of each."""
    output = team.cluster.kubectl(
        *("exec", "--stdin", "--namespace", team.namespace, pod, "--", "python", "-c", _SCRIPT), input=json.dumps(cases)
    )
    results: list[list[str]] = json.loads(output.splitlines()[-1])
    return results


def test_hostile_programs_are_contained_and_the_pod_survives(team: Team, pod: str) -> None:
    animals = [*ZOO, *HARMLESS]
    results = run_in(team, pod, [(animal.program, list(animal.tests), "", animal.seconds) for animal in animals])
    wrong = [
        (animal.name, verdict, message)
        for animal, (verdict, message) in zip(animals, results, strict=True)
        if verdict not in animal.allowed
    ]
    assert not wrong
    processes = team.exec(pod, "python", "ls -d /proc/[0-9]*; ls -A /tmp")
    assert len(processes.split()) <= 4, f"more than sleep, bash and ls, or a file, is left: {processes}"
    state = team.cluster.get("pod", pod, team.namespace)
    assert state is not None and state["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_scorer_of_the_user_is_held_too(team: Team, pod: str) -> None:
    output = team.cluster.kubectl(
        *("exec", "--stdin", "--namespace", team.namespace, pod, "--", "python", "-c", _SCORE_SCRIPT), input=_SCORERS
    )
    found = json.loads(output.splitlines()[-1])
    assert found.pop("good") == [100.0, 0.0]
    assert found.pop("command") == [1.0, 1.0]
    assert found == {name: [None, None] for name in ("reads_the_token", "connects", "forks", "sees_the_key")}


@pytest.mark.skipif(not _MBPP.is_dir(), reason=f"there are no gold programs in {_MBPP}")
def test_gold_programs_pass(team: Team, pod: str) -> None:
    lines = [line for name in ("train", "dev") for line in Path(_MBPP, f"{name}.jsonl").read_text().splitlines()]
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    cases = [(row["answer"], row["tests"], row["test_setup_code"], 60.0) for row in rows]
    results = [
        result for start in range(0, len(cases), 100) for result in run_in(team, pod, cases[start : start + 100])
    ]
    failed = [(row["id"], result) for row, result in zip(rows, results, strict=True) if result[0] != "Passed"]
    assert not failed
    assert len(results) >= 464


def test_the_zoo_knows_what_a_pod_holds(team: Team, pod: str) -> None:
    """What the programs look for is there: otherwise their failure would prove nothing."""
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert "token" in team.exec(pod, "python", f"ls {folder}")
    assert team.exec(pod, "python", "printenv KEY").strip()
    named: list[Animal] = [animal for animal in ZOO if folder in animal.program]
    assert named
