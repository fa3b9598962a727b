"""Random faults over a queue of short jobs on a real cluster: every job ends with the adapter of an undisturbed one.

    python -m tests.e2e.chaos [--faults 200] [--results .cache/chaos.jsonl]

A job is drawn from its seed: the number of its faults, their kinds, and the seconds between them. A fault that finds
nothing to disturb, such as a worker before there is one, waits. Each job is written to the file of results once it is
over, so the program can be stopped and started again. Results of other versions of the product are left out.
"""

import argparse
import collections
import contextlib
import hashlib
import random
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.errors import CommandFailed
from tests.e2e import faults
from tests.e2e.short_job import TIMEOUT_SECONDS, short
from tests.e2e.tenant import Team, team_on_cluster
from tests.e2e.terms import TermWatch
from tests.resumable import Results

_KINDS = (
    *("pods", "jobs", "rayjobs", "rayclusters", "services", "configmaps"),
    *("serviceaccounts", "roles", "rolebindings", "networkpolicies"),
)
_MOST_FAULTS = 4
_GONE_SECONDS = 180
JOB: dict[str, Any] = {
    **short(32),
    "data__eval__limit": 20,
    "checkpoint__everySeconds": 2,
    "retries__application": 10,
    "retries__infrastructure": 20,
}
"""A short job, whose budgets bear the largest number of faults."""
HARMLESS = {"Succeeded", "Preemption"}
"""The outcomes of attempts that any fault may cause."""
COSTLY = {
    "kill_trainer": {"Application", "Infrastructure"},
    "kill_head": {"Infrastructure"},
    "drain_node": {"Infrastructure"},
    "delete_worker": {"Infrastructure"},
    "stop_storage": {"Infrastructure"},
    "stop_api_server": {"Infrastructure"},
    "stop_kuberay": {"Infrastructure"},
}
"""The outcomes that count against a retry budget, and that only these faults may cause. No fault is the user's."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault that a job met."""

    kind: str
    seconds: float
    """The time from the submission of the job to the fault."""
    phase: str
    """The phase of the job when the fault came."""


@dataclass(kw_only=True)
class Story:
    """What happened to a job."""

    seed: int
    faults: list[Fault] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    problem: str | None = None


def play(team: Team, seed: int, undisturbed: str, folder: Path) -> Story:
    """Run the job of ``seed``, disturb it, and check how it ended; ``undisturbed`` is the digest of its adapter."""
    draw = random.Random(seed)
    story, began = Story(seed=seed), time.monotonic()
    name = team.submit(name=f"chaos-{seed}-{secrets.token_hex(2)}", **JOB)
    try:
        with TermWatch(team, name) as watch:
            for _ in range(draw.randint(1, _MOST_FAULTS)):
                fault, pause = draw.choice(faults.ALL), draw.expovariate(1 / 40)
                time.sleep(pause)
                if not _strike(team, name, fault, story, began):
                    break
            team.wait(name, seconds=TIMEOUT_SECONDS)
        story.seconds = round(time.monotonic() - began, 1)
        story.outcomes = [str(attempt.get("outcome")) for attempt in team.status(name)["attempts"]]
        phase = team.status(name)["phase"]
        assert phase == "Succeeded", f"it is {phase}: {team.describe(name)}"
        allowed = HARMLESS.union(*(COSTLY.get(fault.kind, set()) for fault in story.faults))
        assert set(story.outcomes) <= allowed, f"{story.outcomes} after {story.faults}"
        watch.check()
        assert digest_of(team.adapter(name, folder / str(seed))) == undisturbed, "its adapter differs"
        _check_nothing_left(team, name)
    except Exception as error:  # noqa: BLE001 -- a story with any error is a result too
        story.problem = f"{type(error).__name__}: {error}"[-6000:]
    return story


def _strike(team: Team, name: str, fault: faults.Disturbance, story: Story, began: float) -> bool:
    """Disturb the job as soon as there is something to disturb. Return False if the job ended before."""
    while True:
        phase = str(team.status(name).get("phase"))
        if phase in ("Succeeded", "Failed", "Refused"):
            return False
        seconds = round(time.monotonic() - began, 1)
        with contextlib.suppress(faults.NothingThere):
            try:
                fault(team, name)
            except CommandFailed as error:  # for example, the pod has gone meanwhile
                print(f"{fault.__name__}: {error}", file=sys.stderr)
                continue
            story.faults.append(Fault(kind=fault.__name__, seconds=seconds, phase=phase))
            return True
        time.sleep(1)


def _check_nothing_left(team: Team, name: str) -> None:
    """Delete the job, and check that nothing of it stays in the cluster."""
    team.cluster.delete("pij", name, team.namespace, wait=False)
    selector = f"promptintern.dev/job={name}"
    deadline = time.monotonic() + _GONE_SECONDS
    while True:
        left = [
            f"{kind}/{item['metadata']['name']}"
            for kind in _KINDS
            for item in team.cluster.list(kind, team.namespace, selector)
        ]
        if team.cluster.get("pij", name, team.namespace) is not None:
            left.append(f"pij/{name}")
        if not left:
            return
        assert time.monotonic() < deadline, f"it left behind {left}"
        time.sleep(2)


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of an adapter."""
    return hashlib.sha256(content).hexdigest()


def version() -> str:
    """Return the commit of the product that is tested, and whether its files differ from it."""
    output = subprocess.run(["git", "describe", "--always", "--dirty"], check=True, capture_output=True, text=True)
    return output.stdout.strip()


def main() -> int:
    """Play stories until there were enough faults; return 1 if one of them had a problem."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--results", type=Path, default=Path(".cache/chaos.jsonl"))
    options = parser.parse_args()
    results = Results(options.results, version())
    stories = results.documents
    seeds = iter(range(1 + max((story["seed"] for story in stories), default=0), sys.maxsize))
    with team_on_cluster("chaos") as team, tempfile.TemporaryDirectory() as folder:
        name = team.submit(name="undisturbed", **JOB)
        team.wait(name, seconds=TIMEOUT_SECONDS)
        undisturbed = digest_of(team.adapter(name, Path(folder, "undisturbed")))
        while _count(stories) < options.faults:
            story = asdict(play(team, next(seeds), undisturbed, Path(folder)))
            results.add(story)
            met = ", ".join(f"{fault['kind']} in {fault['phase']}" for fault in story["faults"])
            print(
                f"{_count(stories)} of {options.faults} faults; {met}: {story['problem'] or story['outcomes']}",
                flush=True,
            )
    return _tell(stories)


def _count(stories: list[dict[str, Any]]) -> int:
    return sum(len(story["faults"]) for story in stories)


def _tell(stories: list[dict[str, Any]]) -> int:
    for kind, count in sorted(collections.Counter(f["kind"] for story in stories for f in story["faults"]).items()):
        print(f"{count:6} {kind}")
    problems = [story for story in stories if story["problem"]]
    for story in problems:
        print(f"seed {story['seed']}, {story['faults']}: {story['problem']}", file=sys.stderr)
    print(f"{_count(stories)} faults in {len(stories)} jobs; {len(problems)} jobs had a problem")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
