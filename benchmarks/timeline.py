"""Measures the time line of the quickstart on a cluster of its own, from `kubectl apply` to Succeeded.

    python -m benchmarks.timeline [--runs 2] [--json FILE]

The cluster has one node, whose processes share this machine with the job. The images are on the node before the first
run. The times come from the conditions, the pods and the stages that the API server and the trainer report. Only the
moment of the trainer's first report, after which it answers the held-out rows with the full prompt, comes from asking
every two seconds.
"""

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.e2e.tenant import ENDED, Team, team_on_cluster

TIMEOUT_SECONDS = 3000
_POLL_SECONDS = 2.0
"""Seconds between two looks at the job: each starts two processes on the cores that train."""


def main() -> None:
    """Run the quickstart several times, and print when each step was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    with team_on_cluster("timeline") as team:
        runs = [measure(team, f"quickstart-{number}") for number in range(1, options.runs + 1)]
    print(machine)
    for step in runs[0]["steps"]:
        print(f"{step:40}" + "".join(f"{run['steps'].get(step, float('nan')):8.1f}" for run in runs))
    print(f"{'load before and after':40}" + "   ".join(f"{run['load'][0]:.1f}, {run['load'][1]:.1f}" for run in runs))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "runs": runs}, indent=2) + "\n")


def measure(team: Team, name: str) -> dict[str, Any]:
    """Run the quickstart as ``name``, and return the seconds from its creation until each step."""
    load = os.getloadavg()[0]
    before = datetime.now(UTC)
    team.submit(name=name)
    pods: dict[str, dict[str, Any]] = {}
    reported: datetime | None = None
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while (job := team.job(name)).get("status", {}).get("phase") not in ENDED:
        assert time.monotonic() < deadline, f"{name} takes too long: {team.describe(name)}"
        if reported is None and "training" in job.get("status", {}):
            reported = datetime.now(UTC)
        _look(team, name, pods)
        time.sleep(_POLL_SECONDS)
    stages = job["status"]["training"]["stages"]
    moments = {
        "check pod runs": _started(pods, "preflight"),
        "check passed (Accepted)": _condition(job, "Accepted"),
        "head container runs": _started(pods, "head"),
        "head ready": _ready(pods, "head"),
        "worker container runs": _started(pods, "worker"),
        "worker ready": _ready(pods, "worker"),
        "trainer's first report": reported,
        "first stage begins": _time(stages[0].get("startedAt")),
        "last stage committed": _time(stages[-1].get("finishedAt")),
        "Succeeded": _time(job["status"].get("completionTime")),
    }
    return {
        "load": [load, os.getloadavg()[0]],
        "steps": {step: round((moment - before).total_seconds(), 1) for step, moment in moments.items() if moment},
    }


def _look(team: Team, name: str, pods: dict[str, dict[str, Any]]) -> None:
    """Keep the newest state of every pod, because KubeRay deletes pods at the end."""
    for pod in team.cluster.list("pods", team.namespace, f"promptintern.dev/job={name}"):
        pods[pod["metadata"]["labels"]["promptintern.dev/role"]] = pod


def _condition(job: dict[str, Any], kind: str) -> datetime | None:
    found = [c for c in job["status"]["conditions"] if c["type"] == kind]
    return _time(found[0]["lastTransitionTime"]) if found else None


def _started(pods: dict[str, dict[str, Any]], role: str) -> datetime | None:
    statuses = (pods.get(role) or {}).get("status", {}).get("containerStatuses") or [{}]
    state = statuses[0].get("state") or {}
    return _time((state.get("running") or state.get("terminated") or {}).get("startedAt"))


def _ready(pods: dict[str, dict[str, Any]], role: str) -> datetime | None:
    conditions = (pods.get(role) or {}).get("status", {}).get("conditions") or []
    ready = [c for c in conditions if c["type"] == "Ready" and c["status"] == "True"]
    return _time(ready[0]["lastTransitionTime"]) if ready else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


if __name__ == "__main__":
    main()
