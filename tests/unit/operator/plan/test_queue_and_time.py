"""Kueue's quota, and the deadline, which does not count the time that a job is queued or suspended."""

from datetime import timedelta

import pytest
from promptintern_operator.plan import DeleteRayJob, StartAttempt

from tests.unit.operator.builders import (
    CLUSTER,
    HEAD,
    QUEUE_LABEL,
    WORKER,
    Story,
    accepted,
    failed,
    job,
    preflight,
    ray_job,
    running,
    workload,
)

QUEUE = "team-a"
SUSPENDED = ray_job(deployment="Suspended", suspended=True, cluster=None, queue=QUEUE)
ADMITTED = (ray_job(deployment="Running", job_status="RUNNING", queue=QUEUE), HEAD, WORKER)
"""The objects of a first attempt that began in a queue, while it trains."""


def _queued() -> Story:
    story = Story(job=job(labels=QUEUE_LABEL))
    story.reconcile(preflight(succeeded=True))
    return story


def test_a_job_in_a_queue_waits_for_quota() -> None:
    story = _queued()
    story.reconcile(SUSPENDED, workload(message="insufficient unused quota"), after=100)
    assert story.condition("QuotaReserved") == ("False", "Pending")
    assert "insufficient unused quota" in story.message("QuotaReserved")
    assert story.condition("ClusterReady") == ("False", "Queued")
    assert story.phase == "Queued"


def test_a_queue_without_a_workload_is_reported_after_a_while() -> None:
    story = _queued()
    result = story.reconcile(SUSPENDED, after=29)
    assert story.condition("QuotaReserved") == ("False", "Pending")
    assert result.requeue_at is not None
    assert (result.requeue_at - story.now).total_seconds() == 1
    result = story.reconcile(SUSPENDED, after=1)
    assert story.condition("QuotaReserved") == ("False", "QueueUnavailable")
    assert "queue team-a" in story.message("QuotaReserved")
    assert [(h.reason, h.warning) for h in result.events] == [("QueueUnavailable", True)]
    story.reconcile(SUSPENDED, workload(), after=1)
    assert story.condition("QuotaReserved") == ("False", "Pending")


def test_the_workload_of_another_ray_job_is_ignored() -> None:
    story = _queued()
    story.reconcile(SUSPENDED, workload(7, quota_reserved=True))
    assert story.condition("QuotaReserved") == ("False", "Pending")


def test_an_admitted_job_starts() -> None:
    story = _queued()
    story.reconcile(SUSPENDED, workload())
    story.reconcile(ray_job(deployment="Initializing", queue=QUEUE), workload(quota_reserved=True))
    assert story.condition("QuotaReserved") == ("True", "QuotaReserved")
    assert story.phase == "Starting"


def test_an_evicted_job_waits_again_and_goes_on_in_the_same_attempt() -> None:
    story = _queued()
    story.reconcile(*ADMITTED, workload(quota_reserved=True))
    assert story.phase == "Training"
    evicted = workload(evicted="Preempted", message="preempted to accommodate a higher priority")
    story.reconcile(ray_job(deployment="Suspending", suspended=True, queue=QUEUE), HEAD, evicted)
    assert story.condition("QuotaReserved") == ("False", "Preempted")
    assert "higher priority" in story.message("QuotaReserved")
    story.reconcile(SUSPENDED, evicted)
    assert story.phase == "Queued"
    assert story.condition("Training") == ("False", "Queued")
    assert len(story.attempts) == 1
    assert "outcome" not in story.attempt
    story.reconcile(*ADMITTED, workload(quota_reserved=True))
    assert story.phase == "Training"
    assert story.attempt["number"] == 1


def test_a_job_without_a_queue_has_no_quota_condition() -> None:
    assert running().condition("QuotaReserved") is None


def test_a_changed_queue_label_does_not_affect_a_running_attempt() -> None:
    """An attempt keeps the labels that it began with."""
    story = running()
    story.job = story.job.model_copy(update={"metadata": job(labels=QUEUE_LABEL).metadata})
    story.reconcile(*CLUSTER, after=100)
    assert story.condition("QuotaReserved") is None
    queued = _queued()
    queued.reconcile(*ADMITTED, workload(quota_reserved=True))
    queued.job = queued.job.model_copy(update={"metadata": job().metadata})
    queued.reconcile(*ADMITTED, workload(evicted="Preempted"))
    assert queued.condition("QuotaReserved") == ("False", "Preempted")


def test_the_quota_of_an_attempt_is_not_claimed_for_the_next() -> None:
    story = _queued()
    story.reconcile(*ADMITTED, workload(quota_reserved=True))
    story.reconcile(failed(1, "the actor died"))
    assert StartAttempt(2) in story.reconcile(after=20).actions
    assert story.condition("QuotaReserved") != ("True", "QuotaReserved")


def test_queued_time_is_not_active() -> None:
    story = _queued()
    story.reconcile(SUSPENDED, workload(), after=1000)
    assert "activeSince" not in story.attempt
    story.reconcile(*ADMITTED, workload(quota_reserved=True), after=1000)
    story.reconcile(*ADMITTED, workload(quota_reserved=True), after=7)
    story.reconcile(SUSPENDED, workload(), after=3)
    assert story.attempt["activeSeconds"] == 10
    story.reconcile(SUSPENDED, workload(), after=1000)
    assert story.attempt["activeSeconds"] == 10
    assert "activeSince" not in story.attempt


def test_a_deadline_ends_a_running_job() -> None:
    story = running(activeDeadlineSeconds=100)
    result = story.reconcile(*CLUSTER, after=40)
    assert result.requeue_at is not None
    assert (result.requeue_at - story.now).total_seconds() == 60
    result = story.reconcile(*CLUSTER, after=60)
    assert result.actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert story.condition("Failed") == ("True", "DeadlineExceeded")
    assert story.attempt["outcome"] == "User"
    assert story.attempt["finishedAt"] == story.status["completionTime"]
    assert story.phase == "Failed"


def test_a_deadline_counts_all_attempts() -> None:
    story = running(activeDeadlineSeconds=100)
    story.reconcile(failed(1, "the actor died"), after=60)
    story.reconcile(after=1000)
    assert story.attempt["number"] == 2, "the wait between attempts does not count"
    story.reconcile(ray_job(2))
    result = story.reconcile(ray_job(2), after=39)
    assert result.requeue_at is not None
    assert (result.requeue_at - story.now).total_seconds() == pytest.approx(1)
    story.reconcile(ray_job(2), after=1)
    assert story.condition("Failed") == ("True", "DeadlineExceeded")


def test_a_deadline_does_not_pass_in_the_queue_or_while_suspended() -> None:
    story = _queued()
    story.job = job(labels=QUEUE_LABEL, activeDeadlineSeconds=100)
    result = story.reconcile(SUSPENDED, workload(), after=5000)
    assert result.requeue_at is None
    assert story.condition("Failed") is None


def test_a_deadline_that_passes_between_attempts_starts_no_other() -> None:
    story = running(activeDeadlineSeconds=100)
    story.reconcile(failed(1, "the actor died"), after=60)
    story.change(activeDeadlineSeconds=50)
    result = story.reconcile(after=1000)
    assert result.actions == ()
    assert story.condition("Failed") == ("True", "DeadlineExceeded")
    assert len(story.attempts) == 1


def test_a_success_at_the_deadline_is_a_success() -> None:
    story = running(activeDeadlineSeconds=100)
    story.reconcile(ray_job(deployment="Complete", job_status="SUCCEEDED"), after=1000)
    assert story.phase == "Succeeded"


def test_no_deadline_before_the_start() -> None:
    story = accepted(activeDeadlineSeconds=1)
    story.reconcile(after=1000)
    assert story.condition("Failed") is None


def test_the_clocks_of_kuberay_and_kueue_run_from_the_ray_jobs_own_creation() -> None:
    """It may have been denied for long before it was created."""
    story = _queued()
    late = ray_job(deployment="", suspended=True, cluster=None, queue=QUEUE, created=story.now + timedelta(seconds=400))
    story.reconcile(late, after=401)
    assert story.condition("QuotaReserved") == ("False", "Pending")
    story = running()
    story.reconcile(ray_job(deployment="", created=story.now + timedelta(seconds=400)), after=401)
    assert story.condition("ClusterReady")[1] != "KubeRaySilent"
