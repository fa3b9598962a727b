"""Faults while a job runs: it ends with the adapter of an undisturbed run, and no fenced driver writes anything.

`make e2e-faults` runs all of them, and `make e2e` the deletion of the head pod.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.project import delete_operators, operators
from tests.e2e.short_job import CHECKPOINT_SECONDS, SHORT, TIMEOUT_SECONDS, short
from tests.e2e.tenant import Team
from tests.e2e.terms import TermWatch, planned_stops, resumed_after, steps_lost
from tests.e2e.watching import JobHistory

ALL = os.environ.get("PROMPTINTERN_FAULTS") == "all"
JOB = SHORT if ALL else {**short(32), "checkpoint__everySeconds": 2}
"""Without `make e2e-faults`, the quickstart is the undisturbed job, so this one trains as long as it does."""


@pytest.fixture(scope="module")
def undisturbed(team: Team, request: pytest.FixtureRequest) -> str:
    """The name of an undisturbed job that has ended."""
    if not ALL:
        quickstart: JobHistory = request.getfixturevalue("quickstart")
        return quickstart.name
    name = team.submit(name="undisturbed", **JOB)
    team.wait(name, seconds=TIMEOUT_SECONDS)
    return name


def kill_trainer(team: Team, name: str) -> None:
    """Send SIGKILL to the process that trains."""
    pod = team.pods(name, "worker")[0]["metadata"]["name"]
    assert "killed" in team.exec(pod, "ray-worker", 'kill -9 "$(cat /tmp/promptintern/worker.pid)" && echo killed')


def delete_worker(team: Team, name: str) -> None:
    """Delete one worker pod, which gets its grace period."""
    pod = team.pods(name, "worker")[0]["metadata"]["name"]
    team.cluster.delete("pod", pod, team.namespace, wait=False)


def delete_head(team: Team, name: str) -> None:
    """Delete the head pod, which gets its grace period."""
    pod = team.pods(name, "head")[-1]["metadata"]["name"]
    team.cluster.delete("pod", pod, team.namespace, wait=False)


def kill_head(team: Team, name: str) -> None:
    """Delete the head pod without a grace period, as if its node had failed."""
    pod = team.pods(name, "head")[-1]["metadata"]["name"]
    team.cluster.kubectl("delete", "pod", pod, "--namespace", team.namespace, "--grace-period=0", "--force")


def delete_operator(team: Team, name: str) -> None:
    """Delete the operator's pods."""
    delete_operators(team.cluster)


def stop_api_server(team: Team, name: str) -> None:
    """Stop the API server for 30 s."""
    team.cluster.stop_api_server()
    time.sleep(30)
    team.cluster.start_api_server()


def stop_storage(team: Team, name: str) -> None:
    """Stop the S3 server for 30 s."""
    team.cluster.s3.stop()
    time.sleep(30)
    team.cluster.s3.start()


def stop_kuberay(team: Team, name: str) -> None:
    """Stop KubeRay for 60 s."""
    team.cluster.stop_kuberay()
    time.sleep(60)
    team.cluster.start_kuberay()


def drain_node(team: Team, name: str) -> None:
    """Evict the job's pods, then allow new ones on the node."""
    team.cluster.drain(f"promptintern.dev/job={name}")
    team.cluster.uncordon()


def suspend_and_resume(team: Team, name: str) -> None:
    """Suspend the job, and resume it at once."""
    for suspend, until in ((True, ("Suspended",)), (False, ("Starting", "Training"))):
        team.patch(name, {"suspend": suspend})
        team.wait(name, seconds=180, until=until)


def resubmit(team: Team, name: str) -> None:
    """Suspend and resume the RayJob: KubeRay deletes its cluster and submits it again, as Kueue makes it do."""
    ray_job = team.status(name)["attempts"][-1]["rayJobName"]

    def suspend(value: bool) -> None:
        patch = json.dumps({"spec": {"suspend": value}})
        team.cluster.kubectl("patch", "rayjob", ray_job, "-n", team.namespace, "--type=merge", "-p", patch)

    def is_suspended() -> bool:
        manifest = team.cluster.get("rayjob", ray_job, team.namespace)
        return manifest is not None and manifest["status"].get("jobDeploymentStatus") == "Suspended"

    suspend(True)
    team.cluster.wait_for(is_suspended, timeout=180, what=f"RayJob {ray_job} to be suspended")
    suspend(False)


def wake_the_old_driver_in_a_new_attempt(team: Team, name: str) -> None:
    """Pause the old pods while they terminate, and let them continue after a new attempt has claimed the run."""
    old = [(pod["metadata"]["name"], f"ray-{role}") for role in ("head", "worker") for pod in team.pods(name, role)]
    pids = "$(cat /tmp/promptintern/*.pid)"
    for pod, container in old:
        assert "done" in team.exec(pod, container, f"kill -STOP {pids} && echo done")
    team.cluster.delete("rayjob", team.status(name)["attempts"][-1]["rayJobName"], team.namespace, wait=False)
    folder = team.run_folder(name)
    terms = len(team.files.ls(f"{folder}/terms"))

    def is_claimed() -> bool:
        return len(team.files.ls(f"{folder}/terms")) > terms

    team.cluster.wait_for(is_claimed, timeout=240, what="the claim of a new attempt")
    outputs = [team.exec(pod, container, f"kill -CONT {pids} && echo done") for pod, container in old]
    assert all("done" in output for output in outputs), f"the old pods do not exist any more: {outputs}"


Disturbance = Callable[[Team, str], None]
PLANNED = (delete_worker, delete_head, drain_node, suspend_and_resume, resubmit)
HARMLESS = (delete_operator, stop_api_server, stop_storage, stop_kuberay)
HARD = (kill_trainer, kill_head, wake_the_old_driver_in_a_new_attempt)


@pytest.mark.parametrize("disturb", [delete_head] if not ALL else [*PLANNED, *HARMLESS, *HARD])
def test_the_adapter_is_the_same(team: Team, undisturbed: str, disturb: Disturbance, tmp_path: Path) -> None:
    grace = 150 if disturb is wake_the_old_driver_in_a_new_attempt else 60
    name = team.submit(
        name=disturb.__name__.replace("_", "-")[:40].rstrip("-"),
        **{**JOB, "compute__terminationGracePeriodSeconds": grace},
    )
    with TermWatch(team, name) as watch:
        team.cluster.wait_for(
            lambda: watch.has_checkpoint_of("3"), timeout=TIMEOUT_SECONDS, what="a checkpoint in the last stage"
        )
        began = time.monotonic()
        disturb(team, name)
        team.wait(name, seconds=TIMEOUT_SECONDS)
    for job in (undisturbed, name):
        assert team.condition(job, "Succeeded").get("status") == "True", team.describe(job)
    assert [attempt["outcome"] for attempt in team.status(undisturbed)["attempts"]] == ["Succeeded"]
    assert team.adapter(name, tmp_path / "disturbed") == team.adapter(undisturbed, tmp_path / "undisturbed")
    watch.check()
    log = watch.log()
    if disturb in HARD:
        checkpoint = watch.newest_checkpoint(before=began)
        # A checkpoint starts every interval, is written beside training, and is seen by a poll within a second.
        assert began - checkpoint.seen <= CHECKPOINT_SECONDS + 2, "the last checkpoint before the kill was too old"
        assert resumed_after(log)[0] >= checkpoint.step, "it resumed before its last checkpoint"
    else:
        stops = planned_stops(log)
        assert bool(stops) == (disturb in PLANNED)
        assert all(saved == resumed for saved, resumed in stops), f"it did not save before a planned stop: {stops}"
        assert steps_lost(log) == 0, "a planned or harmless disturbance must lose no step"
        outcomes = {attempt["outcome"] for attempt in team.status(name)["attempts"]}
        assert outcomes <= {"Succeeded", "Preemption", "Suspended"}, f"it cost a retry: {team.describe(name)}"


class Deletions:
    """Deletes the operator's pods every 20 s while the context is open."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._error: Exception | None = None
        self.uids: set[str] = set()
        """UIDs of the pods that were deleted."""

    def __enter__(self) -> "Deletions":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self.uids |= operators(self._team.cluster)
                delete_operators(self._team.cluster)
                self._stop.wait(20)
        except Exception as error:  # noqa: BLE001 -- `__exit__` raises it
            self._error = error


if ALL:

    def test_a_whole_job_while_the_operator_is_deleted_again_and_again(
        team: Team, undisturbed: str, tmp_path: Path
    ) -> None:
        with Deletions(team) as deletions:
            name = team.submit(name="operator-comes-and-goes", **JOB)
            start = time.monotonic()
            with TermWatch(team, name) as watch:
                team.wait(name, seconds=TIMEOUT_SECONDS)
            duration = time.monotonic() - start
        assert len(deletions.uids) >= duration / 30, "new operator pods did not appear between deletions"
        assert team.condition(name, "Succeeded").get("status") == "True", team.describe(name)
        assert [attempt["outcome"] for attempt in team.status(name)["attempts"]] == ["Succeeded"]
        assert team.adapter(name, tmp_path / "disturbed") == team.adapter(undisturbed, tmp_path / "undisturbed")
        watch.check()
        assert not resumed_after(watch.log())
