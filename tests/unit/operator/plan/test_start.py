"""An attempt is started exactly once, with or without KubeRay, and its RayJob is followed to a running cluster."""

import pytest
from promptintern_api import parse_job
from promptintern_operator.plan import KubeRay, StartAttempt

from tests.unit.operator.builders import (
    CLUSTER,
    HEAD,
    NO_KUBERAY,
    WORKER,
    Story,
    accepted,
    pod,
    preflight,
    preflight_pod,
    ray_job,
    renamed,
    running,
    waiting_pod,
)


def test_planning_twice_gives_the_same_status_and_no_second_attempt() -> None:
    story = accepted()
    before = story.status
    result = story.reconcile(preflight(succeeded=True))
    assert story.status == before
    assert result.events == ()
    assert result.actions == (StartAttempt(1),), "the missing RayJob is created again under the same name"


def test_an_existing_ray_job_is_not_created_again() -> None:
    story = accepted()
    assert story.reconcile(ray_job(deployment="")).actions == ()
    assert story.attempt["rayJobUID"] == "ray-job-1"
    assert story.reconcile(ray_job(deployment="")).actions == ()
    assert len(story.attempts) == 1


def test_a_ray_job_that_is_gone_is_not_recreated_under_its_name() -> None:
    story = running()
    result = story.reconcile(after=1)
    assert result.actions == ()
    assert story.attempt["outcome"] == "Infrastructure"
    assert "small-a1 was deleted" in story.attempt["message"]
    assert result.requeue_at is not None
    result = story.reconcile(after=13)
    assert result.actions == (StartAttempt(2),)
    assert story.status["rayJobName"] == "small-a2"


@pytest.mark.parametrize("reason", ["KubeRayMissing", "KubeRayTooOld"])
def test_missing_kuberay_is_reported_until_it_is_installed(reason: str) -> None:
    story = Story()
    kuberay = KubeRay(usable=False, reason=reason, message="install KubeRay")
    assert story.reconcile(preflight(succeeded=True), kuberay=kuberay).actions == ()
    assert story.condition("ClusterReady") == ("False", reason)
    assert story.attempts == []
    assert story.condition("Accepted") == ("True", "Valid")
    assert story.reconcile(after=60).actions == (StartAttempt(1),)
    assert story.condition("ClusterReady") == ("False", "Starting")


def test_kuberay_that_is_removed_before_the_ray_job_exists_is_waited_for() -> None:
    story = accepted()
    assert story.reconcile(kuberay=NO_KUBERAY).actions == ()
    assert story.condition("ClusterReady") == ("False", "KubeRayMissing")
    assert story.reconcile().actions == (StartAttempt(1),)
    assert story.condition("ClusterReady") == ("False", "Starting")
    story.reconcile(ray_job(deployment=""))
    assert story.condition("ClusterReady") == ("False", "Starting")
    assert len(story.attempts) == 1


def test_deletion_of_a_ray_job_is_reported_until_it_is_gone() -> None:
    story = running()
    story.reconcile(ray_job(deleting=True), HEAD)
    assert story.condition("ClusterReady") == ("False", "Deleting")
    story.reconcile()
    assert story.condition("ClusterReady") == ("False", "Ended")


def test_a_starting_cluster_reports_its_ready_pods() -> None:
    story = accepted()
    story.reconcile(ray_job(deployment="Initializing"), HEAD, renamed(WORKER, ready=False))
    assert story.condition("ClusterReady") == ("False", "Starting")
    assert "1 of 2 pods" in story.message("ClusterReady")
    assert story.condition("Training") == ("False", "Starting")
    assert story.phase == "Starting"


def test_a_running_ray_job_is_training() -> None:
    story = running()
    assert story.condition("ClusterReady") == ("True", "Ready")
    assert story.condition("Training") == ("True", "Running")
    assert story.phase == "Training"
    assert [p["name"] for p in story.attempt["pods"]] == ["head", "worker"]


def test_a_cluster_that_loses_a_worker_is_not_ready_and_trains_on() -> None:
    story = running()
    story.reconcile(CLUSTER[0], HEAD, renamed(WORKER, phase="Pending", ready=False))
    assert story.condition("ClusterReady") == ("False", "Starting")
    assert story.condition("Training") == ("True", "Running")


def test_a_cluster_that_is_taken_down_is_not_ready() -> None:
    story = running()
    story.reconcile(CLUSTER[0], renamed(HEAD, deleting=True, ready=False), renamed(WORKER, deleting=True, ready=False))
    assert story.condition("ClusterReady") == ("False", "Starting")


def test_a_new_head_pod_is_counted() -> None:
    story = accepted()
    story.reconcile(ray_job(deployment="Initializing"))
    assert story.attempt["headPods"] == 0
    story.reconcile(*CLUSTER)
    assert story.attempt["headPods"] == 1
    assert story.status["currentHeadPodUID"] == "uid-of-head"
    story.reconcile(*CLUSTER)
    assert story.attempt["headPods"] == 1
    second = pod("head-2", created=story.now)
    story.reconcile(CLUSTER[0], renamed(HEAD, deleting=True), second)
    assert story.attempt["headPods"] == 2
    assert story.status["currentHeadPodUID"] == "uid-of-head-2"
    assert len(story.attempts) == 1


def test_the_pods_of_the_previous_attempt_are_ignored() -> None:
    """They may still exist while the new RayJob has no cluster yet; the old head must not report for it."""
    story = running()
    story.reconcile()
    story.reconcile(after=20)
    story.reconcile(ray_job(2, "Initializing", cluster=None), HEAD, WORKER)
    assert story.attempt["number"] == 2
    assert story.attempt["headPods"] == 0
    assert "currentHeadPodUID" not in story.status
    assert story.attempt.get("pods", []) == []


def test_an_old_pod_that_is_stuck_does_not_end_the_new_attempt() -> None:
    story = running()
    story.reconcile()
    story.reconcile(after=20)
    story.reconcile(ray_job(2, "Initializing", cluster=None), waiting_pod(reason="ImagePullBackOff"), after=1000)
    assert story.attempt["number"] == 2
    assert "outcome" not in story.attempt


def test_the_pods_of_the_check_do_not_explain_how_an_attempt_ended() -> None:
    story = running()
    story.reconcile(
        ray_job(deployment="Failed", reason="SubmissionFailed"),
        preflight_pod(exit_code=137, exit_reason="OOMKilled"),
    )
    assert story.attempt["outcome"] == "Infrastructure"


def test_silent_kuberay_is_reported() -> None:
    story = accepted()
    result = story.reconcile(ray_job(deployment=""), after=59)
    assert story.condition("ClusterReady") == ("False", "Starting")
    assert result.requeue_at is not None
    assert (result.requeue_at - story.now).total_seconds() == 1
    story.reconcile(ray_job(deployment=""), after=1)
    assert story.condition("ClusterReady") == ("False", "KubeRaySilent")
    story.reconcile(ray_job(deployment="Initializing"), after=1)
    assert story.condition("ClusterReady") == ("False", "Starting")


@pytest.mark.parametrize(
    ("deployment", "job_status", "training"),
    [
        ("", "", "False"),
        ("Initializing", "", "False"),
        ("Waiting", "", "False"),
        ("Running", "PENDING", "False"),
        ("Running", "RUNNING", "True"),
        ("Suspending", "RUNNING", "False"),
        ("Suspended", "", "False"),
    ],
)
def test_condition_training_follows_the_ray_job(deployment: str, job_status: str, training: str) -> None:
    story = accepted()
    story.reconcile(ray_job(deployment=deployment, job_status=job_status), HEAD)
    condition = story.condition("Training")
    assert condition is not None
    assert condition[0] == training
    assert "outcome" not in story.attempt


def test_a_written_status_can_be_parsed() -> None:
    story = running()
    document = {**story.job.to_wire(), "status": story.status}
    assert parse_job(document).to_wire()["status"] == story.status


def test_the_trainers_status_fills_the_columns() -> None:
    story = running()
    stage = {"index": 0, "rate": 1.0, "shots": 3, "promptTokens": 400.04, "score": 0.5}
    story.training = {"term": 1, "stages": [stage, stage | {"index": 1, "promptTokens": 120.0, "score": None}]}
    story.reconcile(*CLUSTER)
    assert (story.status["stage"], story.status["tokens"], story.status["score"]) == ("2/4", 120.0, "0.500")
    assert "training" not in story.status, "it belongs to the trainer"
