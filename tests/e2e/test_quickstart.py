"""`kubectl apply -f examples/quickstart.yaml` in a tenant's namespace, to an adapter that answers."""

import subprocess
import sys
from pathlib import Path

from promptintern.sample import sample_rows

from tests.e2e.tenant import Team


def test_it_succeeds_and_the_stages_were_seen_moving(team: Team, quickstart: str) -> None:
    assert team.condition(quickstart, "Succeeded").get("status") == "True", team.told(quickstart)
    phases = list(dict.fromkeys(row.phase for row in team.seen))
    assert phases[-3:] == ["Starting", "Training", "Succeeded"], team.seen
    stages = [row.stage for row in team.seen if row.stage != "<none>"]
    assert len(set(stages)) >= 2, team.seen
    assert stages[-1] == "4/4"
    tokens = [float(row.tokens) for row in team.seen if row.tokens != "<none>"]
    assert tokens[-1] < 0.1 * tokens[0]


def test_all_stages_ran_in_worker_pods(team: Team, quickstart: str) -> None:
    (attempt,) = team.status(quickstart)["attempts"]
    assert attempt["outcome"] == "Succeeded"
    assert attempt["incarnations"] == 1
    hosts = [team.files().cat(path) for path in team.files().ls(f"{team.run_folder(quickstart)}/epochs")]
    assert len(hosts) == 1
    assert b"workers-worker" in hosts[0], "the epoch was claimed in a worker pod"


def test_everything_is_in_the_bucket(team: Team, quickstart: str) -> None:
    folder = team.run_folder(quickstart)
    names = {path.removeprefix(f"{folder}/") for path in team.files().find(folder)}
    wanted = {"job.json", "model.json", "epochs/1.json", "adapter/manifest.json", "adapter/adapter_model.safetensors"}
    wanted |= {"report/report.json", "report/report.html"} | {f"stages/{stage}/manifest.json" for stage in range(4)}
    assert wanted <= names
    logs = [name for name in names if name.startswith("logs/quickstart-a1/job-driver-")]
    assert logs
    assert b"QueryOnly" in team.files().cat(f"{folder}/{logs[0]}")


def test_the_cluster_is_given_back(team: Team, quickstart: str) -> None:
    def gone() -> bool:
        pods = [*team.pods(quickstart, "head"), *team.pods(quickstart, "worker")]
        return not pods and not team.cluster.list("rayclusters", team.namespace)

    team.cluster.wait_for(gone, timeout=180, what="the Ray cluster's end")


def test_the_fetched_adapter_answers(team: Team, quickstart: str, tmp_path: Path) -> None:
    promptintern = [sys.executable, "-m", "promptintern.cli.app"]
    folder = tmp_path / "fetched"
    subprocess.run(
        [*promptintern, "fetch", quickstart, str(folder), "--namespace", team.namespace],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **team.environment()},
        check=True,
    )
    assert (folder / "report" / "report.html").exists()
    rows = sample_rows("sample://formulas/eval?world=1&rows=40")
    answered = subprocess.run(
        [*promptintern, "predict", str(folder / "adapter")],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        input="".join(f"{row['query']}\n" for row in rows),
        check=True,
        capture_output=True,
        text=True,
    )
    right = sum(answer == row["answer"] for answer, row in zip(answered.stdout.splitlines(), rows, strict=True))
    assert right >= 36, "the report says 98 % and more"
