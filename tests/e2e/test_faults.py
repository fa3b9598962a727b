"""What may go wrong while a job runs: it ends with the adapter of an undisturbed run, and nobody writes who was fenced.

Run by `make e2e-faults`; the head's deletion is in `make e2e` too.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.project import SYSTEM
from tests.e2e.tenant import Team

ALL = os.environ.get("PROMPTINTERN_FAULTS") == "all"
_SECONDS = 900
_EVERY = 5
"""Seconds between checkpoints."""
_SHORT: dict[str, Any] = {
    "data__eval__limit": 60,
    "evaluation__arms": ["FullPrompt", "QueryOnly"],
    "checkpoint__everySeconds": _EVERY,
    "compute__terminationGracePeriodSeconds": 60,
}


@pytest.fixture(scope="module")
def undisturbed(team: Team, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of a run that nobody disturbed."""
    name = team.submit(name="calm", **_SHORT)
    team.wait(name, seconds=_SECONDS)
    assert team.condition(name, "Succeeded").get("status") == "True", team.told(name)
    return team.adapter(name, tmp_path_factory.mktemp("calm"))


def until_training(team: Team, name: str, *, stage: int = 3, step: int = 20) -> dict[str, Any]:
    """Wait until the trainer says that it is in the middle of ``stage``; returns what it says."""

    def reached() -> dict[str, Any] | None:
        training: dict[str, Any] = team.status(name).get("training") or {}
        stages = [each["index"] for each in training.get("stages", [])]
        progress = training.get("progress") or {}
        return training if stages and max(stages) >= stage and progress.get("step", 0) >= step else None

    return team.cluster.wait_for(reached, timeout=_SECONDS, what=f"stage {stage} of {name}")


def in_worker(team: Team, name: str, command: str, *, number: int = 0) -> str:
    """What a shell command says in a worker pod."""
    pod = team.pods(name, "worker")[number]["metadata"]["name"]
    return team.cluster.kubectl(
        *("exec", "--namespace", team.namespace, pod, "-c", "ray-worker", "--", "bash", "-c", command), check=False
    )


def kill_trainer(team: Team, name: str) -> None:
    """kill -9 of the process that trains."""
    assert "killed" in in_worker(team, name, 'kill -9 "$(cat /tmp/promptintern/worker.pid)" && echo killed')


def delete_worker(team: Team, name: str) -> None:
    """A planned stop of one worker pod."""
    pod = team.pods(name, "worker")[0]["metadata"]["name"]
    team.cluster.delete("pod", pod, team.namespace, wait=False)


def delete_head(team: Team, name: str) -> None:
    """A planned stop of the head pod."""
    pod = team.pods(name, "head")[-1]["metadata"]["name"]
    team.cluster.delete("pod", pod, team.namespace, wait=False)


def kill_head(team: Team, name: str) -> None:
    """The head pod is gone at once, as with its node."""
    pod = team.pods(name, "head")[-1]["metadata"]["name"]
    team.cluster.kubectl("delete", "pod", pod, "--namespace", team.namespace, "--grace-period=0", "--force")


def delete_operator(team: Team, name: str) -> None:
    """The leading operator's pod."""
    team.cluster.kubectl(
        "delete", "pod", "--namespace", SYSTEM, "-l", "app.kubernetes.io/name=promptintern", "--wait=false"
    )


def delete_operator_again_and_again(team: Team, name: str) -> None:
    """Every 20 s, until the job has ended."""

    def keep_on() -> None:
        while team.status(name).get("completionTime") is None:
            delete_operator(team, name)
            time.sleep(20)

    threading.Thread(target=keep_on, daemon=True).start()


def stop_api_server(team: Team, name: str) -> None:
    """No API server for 30 s."""
    team.cluster.stop_api_server()
    time.sleep(30)
    team.cluster.start_api_server()


def stop_storage(team: Team, name: str) -> None:
    """No S3 server for 30 s."""
    team.cluster.s3.stop()
    time.sleep(30)
    team.cluster.s3.start()


def stop_kuberay(team: Team, name: str) -> None:
    """No KubeRay for 60 s."""
    team.cluster.stop_kuberay()
    time.sleep(60)
    team.cluster.start_kuberay()


def drain_node(team: Team, name: str) -> None:
    """The job's pods are evicted, and may come back."""
    team.cluster.drain(f"promptintern.dev/job={name}")
    team.cluster.uncordon()


def resume_over_terminating_pods(team: Team, name: str) -> None:
    """Suspended and resumed at once: the next attempt starts while the old pods still end."""
    patch = ["patch", "pij", name, "--namespace", team.namespace, "--type=merge", "-p"]
    team.cluster.kubectl(*patch, json.dumps({"spec": {"suspend": True}}))
    team.wait(name, seconds=120, until=("Suspended",))
    team.cluster.kubectl(*patch, json.dumps({"spec": {"suspend": False}}))


Disturbance = Callable[[Team, str], None]
PLANNED = (delete_worker, delete_head, drain_node, resume_over_terminating_pods)
HARMLESS = (delete_operator, delete_operator_again_and_again, stop_api_server, stop_storage, stop_kuberay)
HARD = (kill_trainer, kill_head)


@pytest.mark.parametrize("disturb", [delete_head] if not ALL else [*PLANNED, *HARMLESS, *HARD])
def test_the_adapter_is_the_same(team: Team, undisturbed: bytes, disturb: Disturbance, tmp_path: Path) -> None:
    name = team.submit(name=disturb.__name__.replace("_", "-")[:40].rstrip("-"), **_SHORT)
    before = until_training(team, name)
    watcher = EpochWatch(team, name)
    with watcher:
        disturb(team, name)
        team.wait(name, seconds=_SECONDS)
    assert team.condition(name, "Succeeded").get("status") == "True", team.told(name)
    assert team.adapter(name, tmp_path) == undisturbed
    watcher.check()
    lost = watcher.steps_lost(before)
    if disturb in HARMLESS:
        assert lost == 0, "nothing was to be done twice"
    elif disturb in PLANNED:
        assert lost == 0, "a planned stop saves first"
    else:
        assert lost is not None


class EpochWatch:
    """Looks every second who owns the run, and who commits."""

    def __init__(self, team: Team, name: str) -> None:
        self._team, self._name = team, name
        self._folder = team.run_folder(name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.newest = 0
        self.commits: list[tuple[str, int, int]] = []
        """Manifest, its epoch, and the newest epoch when it was first seen."""
        self._known: set[str] = set()

    def __enter__(self) -> "EpochWatch":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def check(self) -> None:
        """No manifest by a fenced epoch."""
        assert self.commits
        late = [(path, epoch, newest) for path, epoch, newest in self.commits if epoch < newest]
        assert not late, "committed by an epoch that was fenced already"

    def steps_lost(self, before: dict[str, Any]) -> int | None:
        """Steps that were done twice: what the driver's logs say where it continued, against what it had done."""
        logs = b"".join(
            self._team.files().cat(path)
            for path in self._team.files().find(f"{self._folder}/logs")
            if "job-driver-" in path
        ).decode()
        done, lost = 0, 0
        for line in logs.splitlines():
            if "continues after step " in line:
                resumed = int(line.rsplit(" ", 1)[1])
                lost += max(0, done - resumed)
                done = resumed
            elif ": step " in line:
                done = int(line.partition(": step ")[2].partition("/")[0])
        return lost

    def _watch(self) -> None:
        while not self._stop.wait(1):
            self._look()

    def _look(self) -> None:
        try:
            files = self._team.files()
            names = files.find(self._folder)
            epochs = [int(Path(path).stem) for path in names if "/epochs/" in path]
            newest = max(epochs, default=0)
            for path in names:
                if path.endswith("/manifest.json") and path not in self._known:
                    epoch = int(json.loads(files.cat(path))["epoch"])
                    self._known.add(path)
                    # One that was committed before this look may be older than an epoch that was claimed since.
                    self.commits.append((path, epoch, self.newest))
            self.newest = newest
        except (OSError, ValueError):
            pass  # the storage is stopped, or a checkpoint was removed meanwhile
