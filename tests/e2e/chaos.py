"""Random faults over a queue of short jobs on a real cluster: every job ends with the adapter of an undisturbed one.

    python -m tests.e2e.chaos [--faults 200] [--results .cache/chaos.jsonl]

Two jobs run at a time, because the cluster may be a small machine. What happens to a pair of jobs is drawn from a seed:
the number of faults, their kinds, the jobs that they hit, and the seconds between them. Each pair is written to the
file of results once it is over, so the program can be stopped and started again. Results of other versions of the
product are left out.
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
from tests.e2e.tenant import ENDED, Team, team_on_cluster
from tests.e2e.terms import TermWatch
from tests.resumable import Results

_KINDS = (
    *("pods", "jobs", "rayjobs", "rayclusters", "services", "configmaps"),
    *("serviceaccounts", "roles", "rolebindings", "networkpolicies"),
)
_PAIR = 2
_MOST_FAULTS = 8
_GONE_SECONDS = 180
_MEAN_PAUSE_SECONDS = 12
JOB: dict[str, Any] = {
    **short(96),
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
SHARED = {"delete_operator", "stop_storage", "stop_api_server", "stop_kuberay"}
"""The faults that hit all jobs at once. Every other fault hits one job."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault, the job that it hit (all jobs if it is a shared one), and the phase in which it hit this job."""

    kind: str
    job: int
    """The number of the job within its pair."""
    seconds: float
    """The time from the submission of the jobs to the fault."""
    phase: str
    is_complete: bool
    """Whether every command of the fault succeeded. Otherwise it does not count, but may have done something."""


@dataclass(kw_only=True)
class Story:
    """What happened to a pair of jobs."""

    seed: int
    faults: list[Fault] = field(default_factory=list)
    outcomes: list[list[str]] = field(default_factory=list)
    """The outcomes of each job's attempts."""
    seconds: float = 0.0
    problem: str | None = None


def play(team: Team, seed: int, undisturbed: str, folder: Path) -> Story:
    """Run the jobs of ``seed``, disturb them, and check how they ended.

    Args:
        team: The team whose jobs they are.
        seed: The seed from which the faults are drawn.
        undisturbed: The digest of the adapter of an undisturbed job.
        folder: A folder for the adapters.
    """
    story, began = Story(seed=seed), time.monotonic()
    try:
        names = [team.submit(name=f"chaos-{seed}-{n}-{secrets.token_hex(2)}", **JOB) for n in range(_PAIR)]
        with contextlib.ExitStack() as stack:
            watches = [stack.enter_context(TermWatch(team, name)) for name in names]
            _disturb(team, names, story, began)
            for name in names:
                team.wait(name, seconds=TIMEOUT_SECONDS)
        story.seconds = round(time.monotonic() - began, 1)
        statuses = [team.status(name) for name in names]
        story.outcomes = [[str(attempt.get("outcome")) for attempt in status["attempts"]] for status in statuses]
        for number, (name, watch) in enumerate(zip(names, watches, strict=True)):
            phase = statuses[number]["phase"]
            assert phase == "Succeeded", f"job {number} is {phase}: {team.describe(name)}"
            kinds = {fault.kind for fault in story.faults if fault.job == number or fault.kind in SHARED}
            allowed = HARMLESS.union(*(COSTLY.get(kind, set()) for kind in kinds))
            outcomes = story.outcomes[number]
            assert set(outcomes) <= allowed, f"the attempts of job {number} were {outcomes} after {story.faults}"
            watch.check()
            adapter = team.adapter(name, folder / f"{seed}-{number}")
            assert digest_of(adapter) == undisturbed, f"the adapter of job {number} differs"
        for name in names:
            _check_nothing_left(team, name)
    except Exception as error:  # noqa: BLE001 -- a story with any error is a result too
        story.problem = f"{type(error).__name__}: {error}"[-6000:]
    return story


def _disturb(team: Team, names: list[str], story: Story, began: float) -> None:
    """Draw faults and cause them until there were enough, or until all jobs have ended.

    If there is nothing that a fault could disturb, such as a worker before there is one, the next one is tried.
    """
    draw = random.Random(story.seed)
    for _ in range(draw.randint(_MOST_FAULTS // 2, _MOST_FAULTS)):
        time.sleep(draw.expovariate(1 / _MEAN_PAUSE_SECONDS))
        share = draw.random()
        for fault in draw.sample(faults.ALL, len(faults.ALL)):
            phases = [str(team.status(name).get("phase")) for name in names]
            running = [number for number, phase in enumerate(phases) if phase not in ENDED]
            if not running:
                return
            job = running[int(share * len(running))]
            seconds = round(time.monotonic() - began, 1)
            is_complete = True
            try:
                fault(team, names[job])
            except faults.NothingThere:
                continue
            except CommandFailed as error:  # for example, the pod has gone after it was found
                print(f"{fault.__name__}: {error}", file=sys.stderr)
                is_complete = False
            story.faults.append(
                Fault(kind=fault.__name__, job=job, seconds=seconds, phase=phases[job], is_complete=is_complete)
            )
            break


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
            met = ", ".join(f"{fault['kind']} ({fault['job']}, {fault['phase']})" for fault in story["faults"])
            print(
                f"{_count(stories)} of {options.faults} faults; {met}: {story['problem'] or story['outcomes']}",
                flush=True,
            )
    return _tell(stories)


def _count(stories: list[dict[str, Any]]) -> int:
    return sum(fault["is_complete"] for story in stories for fault in story["faults"])


def _kinds(stories: list[dict[str, Any]]) -> collections.Counter[str]:
    return collections.Counter(fault["kind"] for story in stories for fault in story["faults"] if fault["is_complete"])


def _tell(stories: list[dict[str, Any]]) -> int:
    for kind, count in sorted(_kinds(stories).items()):
        print(f"{count:6} {kind}")
    problems = [story for story in stories if story["problem"]]
    for story in problems:
        print(f"seed {story['seed']}, {story['faults']}: {story['problem']}", file=sys.stderr)
    print(f"{_count(stories)} faults in {_PAIR * len(stories)} jobs; {len(problems)} pairs of jobs had a problem")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
