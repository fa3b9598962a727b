"""What may go wrong while a job runs: it ends with the adapter of an undisturbed run, and nobody writes who was fenced.

Run by `make e2e-faults`; the head's deletion is in `make e2e` too.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.begun import Seen
from tests.e2e.project import delete_operators, operators
from tests.e2e.short import EVERY, SECONDS, SHORT, short
from tests.e2e.tenant import Team
from tests.e2e.terms import TermWatch, planned_stops, resumed_after, steps_lost

ALL = os.environ.get("PROMPTINTERN_FAULTS") == "all"
JOB = SHORT if ALL else {**short(32), "checkpoint__everySeconds": 2}
"""Without the other faults, the job that nobody disturbs is the quickstart, which trains as long."""


@pytest.fixture(scope="module")
def undisturbed(team: Team, request: pytest.FixtureRequest) -> str:
    """A job that nobody disturbs, at its end."""
    if not ALL:
        quickstart: Seen = request.getfixturevalue("quickstart")
        return quickstart.name
    name = team.submit(name="undisturbed", **JOB)
    team.wait(name, seconds=SECONDS)
    return name


def kill_trainer(team: Team, name: str) -> None:
    """kill -9 of the process that trains."""
    pod = team.pods(name, "worker")[0]["metadata"]["name"]
    assert "killed" in team.exec(pod, "ray-worker", 'kill -9 "$(cat /tmp/promptintern/worker.pid)" && echo killed')


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
    delete_operators(team.cluster)


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


def suspend_and_resume(team: Team, name: str) -> None:
    """By the user, one right after the other."""
    for suspend, until in ((True, ("Suspended",)), (False, ("Starting", "Training"))):
        team.patch(name, {"suspend": suspend})
        team.wait(name, seconds=180, until=until)


def resubmit(team: Team, name: str) -> None:
    """KubeRay gives the cluster back and submits the same RayJob anew, as it does when Kueue takes its quota back."""
    ray_job = team.status(name)["attempts"][-1]["rayJobName"]

    def suspend(value: bool) -> None:
        patch = json.dumps({"spec": {"suspend": value}})
        team.cluster.kubectl("patch", "rayjob", ray_job, "-n", team.namespace, "--type=merge", "-p", patch)

    def is_suspended() -> bool:
        found = team.cluster.get("rayjob", ray_job, team.namespace)
        return found is not None and found["status"].get("jobDeploymentStatus") == "Suspended"

    suspend(True)
    team.cluster.wait_for(is_suspended, timeout=180, what=f"RayJob {ray_job} to be suspended")
    suspend(False)


def wake_the_old_driver_in_a_new_attempt(team: Team, name: str) -> None:
    """The old pods hang while they end, and train on when a new attempt has long begun."""
    old = [(pod["metadata"]["name"], f"ray-{role}") for role in ("head", "worker") for pod in team.pods(name, role)]
    both = "$(cat /tmp/promptintern/*.pid)"
    for pod, container in old:
        assert "done" in team.exec(pod, container, f"kill -STOP {both} && echo done")
    team.cluster.delete("rayjob", team.status(name)["attempts"][-1]["rayJobName"], team.namespace, wait=False)
    folder = team.run_folder(name)
    claims = len(team.files.ls(f"{folder}/terms"))

    def claimed() -> bool:
        return len(team.files.ls(f"{folder}/terms")) > claims

    team.cluster.wait_for(claimed, timeout=240, what="the claim of a new attempt")
    woken = [team.exec(pod, container, f"kill -CONT {both} && echo done") for pod, container in old]
    assert all("done" in said for said in woken), f"the old pods were there no more: {woken}"


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
            lambda: watch.has_checkpoint_of("3"), timeout=SECONDS, what="a checkpoint in the last stage"
        )
        began = time.monotonic()
        disturb(team, name)
        team.wait(name, seconds=SECONDS)
    for each in (undisturbed, name):
        assert team.condition(each, "Succeeded").get("status") == "True", team.told(each)
    assert [each["outcome"] for each in team.status(undisturbed)["attempts"]] == ["Succeeded"]
    assert team.adapter(name, tmp_path / "disturbed") == team.adapter(undisturbed, tmp_path / "undisturbed")
    watch.check()
    log = watch.log()
    if disturb in HARD:
        kept = watch.newest_checkpoint(before=began)
        # The copy is taken every interval, written beside training, and seen by a look a second.
        assert began - kept.seen <= EVERY + 2, "the last checkpoint before the kill was too old"
        assert resumed_after(log)[0] >= kept.step, "it continued before its last checkpoint"
    else:
        stops = planned_stops(log)
        assert bool(stops) == (disturb in PLANNED)
        assert all(saved == resumed for saved, resumed in stops), f"it did not save when it was asked to: {stops}"
        assert steps_lost(log) == 0, "what was disturbed was planned, or harmless"
        outcomes = {each["outcome"] for each in team.status(name)["attempts"]}
        assert outcomes <= {"Succeeded", "Preemption", "Suspended"}, f"it cost a retry: {team.told(name)}"


class Deletions:
    """The operator's pods are deleted every 20 s while the context is open."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._error: Exception | None = None
        self.uids: set[str] = set()
        """Of pods that were there to be deleted."""

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
        except Exception as error:  # noqa: BLE001 -- raised again where the test waits
            self._error = error


if ALL:

    def test_a_whole_job_while_the_operator_is_deleted_again_and_again(
        team: Team, undisturbed: str, tmp_path: Path
    ) -> None:
        with Deletions(team) as deletions:
            name = team.submit(name="operator-comes-and-goes", **JOB)
            began = time.monotonic()
            with TermWatch(team, name) as watch:
                team.wait(name, seconds=SECONDS)
            took = time.monotonic() - began
        assert len(deletions.uids) >= took / 30, "it was there to be deleted, each time anew"
        assert team.condition(name, "Succeeded").get("status") == "True", team.told(name)
        assert [each["outcome"] for each in team.status(name)["attempts"]] == ["Succeeded"]
        assert team.adapter(name, tmp_path / "disturbed") == team.adapter(undisturbed, tmp_path / "undisturbed")
        watch.check()
        assert not resumed_after(watch.log())
