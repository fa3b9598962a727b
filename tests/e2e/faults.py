"""Faults for a running job: of its pods, the operator, the API server, KubeRay, the storage and the node."""

import json
import time
from collections.abc import Callable
from typing import Any

from tests.e2e.project import delete_operators
from tests.e2e.tenant import Team


class NothingThere(Exception):  # noqa: N818 -- the caller waits
    """Raised if there is nothing yet that the fault could disturb."""


def _pod(team: Team, name: str, role: str) -> dict[str, Any]:
    """Return the newest pod of a role that has not ended.

    Raises:
        NothingThere: if there is none.
    """
    pods = [pod for pod in team.pods(name, role) if pod["status"]["phase"] in ("Pending", "Running")]
    if not pods:
        raise NothingThere
    return pods[-1]


def kill_trainer(team: Team, name: str) -> None:
    """Send SIGKILL to the process that trains."""
    pod = _pod(team, name, "worker")["metadata"]["name"]
    if "killed" not in team.exec(pod, "ray-worker", 'kill -9 "$(cat /tmp/promptintern/worker.pid)" && echo killed'):
        raise NothingThere


def delete_check(team: Team, name: str) -> None:
    """Delete the pod that checks the job."""
    pod = _pod(team, name, "preflight")["metadata"]["name"]
    team.cluster.delete("pod", pod, team.namespace, wait=False)


def delete_worker(team: Team, name: str) -> None:
    """Delete one worker pod, which gets its grace period."""
    pod = _pod(team, name, "worker")["metadata"]["name"]
    team.cluster.delete("pod", pod, team.namespace, wait=False)


def delete_head(team: Team, name: str) -> None:
    """Delete the head pod, which gets its grace period."""
    pod = _pod(team, name, "head")["metadata"]["name"]
    team.cluster.delete("pod", pod, team.namespace, wait=False)


def kill_head(team: Team, name: str) -> None:
    """Delete the head pod without a grace period, as if its node had failed."""
    pod = _pod(team, name, "head")["metadata"]["name"]
    team.cluster.kubectl("delete", "pod", pod, "--namespace", team.namespace, "--grace-period=0", "--force")


def delete_operator(team: Team, name: str) -> None:
    """Delete the operator's pods."""
    delete_operators(team.cluster)


def stop_api_server(team: Team, name: str) -> None:
    """Stop the API server for 30 s."""
    try:
        team.cluster.stop_api_server()
        time.sleep(30)
    finally:
        team.cluster.start_api_server()


def stop_storage(team: Team, name: str) -> None:
    """Stop the S3 server for 30 s."""
    try:
        team.cluster.s3.stop()
        time.sleep(30)
    finally:
        team.cluster.s3.start()


def stop_kuberay(team: Team, name: str) -> None:
    """Stop KubeRay for 60 s."""
    try:
        team.cluster.stop_kuberay()
        time.sleep(60)
    finally:
        team.cluster.start_kuberay()


def drain_node(team: Team, name: str) -> None:
    """Evict the job's pods, then allow new ones on the node."""
    try:
        team.cluster.drain(f"promptintern.dev/job={name}")
    finally:
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
ALL = (
    *(kill_trainer, kill_head, delete_worker, delete_head, delete_check, drain_node),
    *(delete_operator, stop_api_server, stop_storage, stop_kuberay),
)
"""The faults that may come at any moment of a job."""
