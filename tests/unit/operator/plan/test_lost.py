"""Lost heads and pods, and what the status remembers of them."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from promptintern_operator.plan import DeleteRayJob, StartAttempt

from tests.unit.operator.builders import (
    HEAD,
    LIMITS,
    WORKER,
    Story,
    container,
    crashed,
    failed,
    ray_job,
    renamed,
    running,
)

OOM = container("ray-worker", exit_code=137, exit_reason="OOMKilled", memory_limit="8Gi")
RUNNING = ray_job(job_status="RUNNING")


def test_an_attempt_whose_head_is_gone_ends_after_a_while() -> None:
    story = running(retries__infrastructure=1)
    story.reconcile(RUNNING, HEAD, WORKER)
    assert story.reconcile(RUNNING, WORKER).actions == ()
    assert story.reconcile(RUNNING, WORKER, after=59).actions == ()
    result = story.reconcile(RUNNING, WORKER, after=1)
    assert result.actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert (story.attempt["outcome"], story.attempt["message"]) == (
        "Infrastructure",
        "the head pod of RayJob small-a1 was lost, together with the last seconds of its log",
    )
    assert StartAttempt(2) in story.reconcile(after=100).actions


def test_a_new_head_in_time_is_counted() -> None:
    story = running()
    story.reconcile(RUNNING, HEAD, WORKER)
    story.reconcile(RUNNING, WORKER)
    story.reconcile(RUNNING, renamed(HEAD, name="head-2", uid="head-2"), WORKER, after=30)
    assert story.reconcile(RUNNING, renamed(HEAD, name="head-2", uid="head-2"), WORKER, after=100).actions == ()
    assert story.attempt["headPods"] == 2


def _waiting() -> Story:
    """Return a job whose trainer has just crashed, and whose pods still seem to run."""
    story = running()
    story.limits = replace(LIMITS, settle=5)
    result = story.reconcile(crashed(), HEAD, WORKER)
    assert result.requeue_at == story.now + timedelta(seconds=5)
    assert "outcome" not in story.attempt
    return story


@pytest.mark.parametrize(
    ("worker", "outcome"),
    [
        ({"containers": (OOM,), "phase": "Failed"}, "Application"),
        ({"disrupted": "PreemptionByScheduler"}, "Preemption"),
        ({"reason": "NodeLost"}, "Infrastructure"),
    ],
)
def test_pods_may_report_a_moment_later_why_an_attempt_failed(worker: dict[str, Any], outcome: str) -> None:
    story = _waiting()
    story.reconcile(crashed(), HEAD, renamed(WORKER, **worker), after=2)
    assert story.attempt["outcome"] == outcome
    assert story.attempt["finishedAt"] == "2026-01-02T03:04:07Z"


def test_a_driver_stopped_by_the_deletion_of_its_pod_is_free_even_if_the_pod_is_seen_later() -> None:
    """The watch of RayJobs delivers exit code 143, and the watch of pods the deletion."""
    story = running(retries={"application": 0, "infrastructure": 0})
    story.limits = replace(LIMITS, settle=5)
    story.reconcile(crashed(code=143), HEAD, WORKER)
    assert "outcome" not in story.attempt
    story.reconcile(crashed(code=143), renamed(HEAD, deleting=True), WORKER, after=1)
    assert story.attempt["outcome"] == "Preemption"


def test_silent_pods_are_not_waited_for_long() -> None:
    story = _waiting()
    story.reconcile(crashed(), HEAD, WORKER, after=4)
    assert "outcome" not in story.attempt
    story.reconcile(crashed(), HEAD, WORKER, after=1)
    assert story.attempt["outcome"] == "Application"


@pytest.mark.parametrize(
    "seen",
    [
        (crashed(),),
        (crashed(), renamed(WORKER, phase="Failed")),
        (crashed(), renamed(WORKER, containers=(container("ray-worker", exit_code=1),))),
        (crashed(code=2), HEAD),
        (failed(message="the head died", deleting=True), HEAD),
    ],
)
def test_pods_that_cannot_change_the_outcome_are_not_waited_for(seen: tuple[object, ...]) -> None:
    story = running()
    story.limits = replace(LIMITS, settle=5)
    story.reconcile(*seen)
    assert "outcome" in story.attempt


def test_a_worker_that_ran_out_of_memory_is_named_after_its_pod_is_gone() -> None:
    story = running(retries__application=0)
    story.reconcile(RUNNING, HEAD, renamed(WORKER, phase="Failed", containers=(OOM,)))
    story.reconcile(RUNNING, HEAD)
    story.reconcile(crashed(), HEAD)
    assert story.condition("Failed") == ("True", "RetriesExhausted")
    assert "container ray-worker of pod worker was killed for exceeding its memory limit of 8Gi" in story.message(
        "Failed"
    )


def test_a_head_on_a_silent_node_is_lost_although_its_pod_seems_to_run() -> None:
    """The node lost its power: the pod is being deleted, and no kubelet finishes that."""
    story = running()
    story.reconcile(RUNNING, HEAD, WORKER)
    stranded = renamed(
        HEAD, deleting=True, deletion_requested=story.now, deletion_due=story.now + timedelta(seconds=120)
    )
    result = story.reconcile(RUNNING, stranded, WORKER)
    assert result.actions == ()
    assert result.requeue_at == story.now + timedelta(seconds=180)
    assert story.reconcile(RUNNING, stranded, WORKER, after=180).actions == ()
    assert story.reconcile(RUNNING, stranded, WORKER, after=60).actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert "the head pod of RayJob small-a1 was lost" in story.attempt["message"]


def test_a_head_that_saves_for_long_is_not_lost() -> None:
    story = running()
    leaving = renamed(
        HEAD, deleting=True, deletion_requested=story.now, deletion_due=story.now + timedelta(seconds=3600)
    )
    assert story.reconcile(RUNNING, leaving, WORKER, after=3600).actions == ()
    assert "outcome" not in story.attempt


def test_a_suspended_job_does_not_wait_for_pods_on_a_silent_node() -> None:
    story = running()
    story.change(suspend=True)
    story.reconcile(RUNNING, HEAD, WORKER)
    due = story.now + timedelta(seconds=120)
    stranded = renamed(WORKER, deleting=True, deletion_requested=story.now, deletion_due=due)
    story.reconcile(stranded, after=179)
    assert story.condition("Suspended") == ("False", "Saving")
    story.reconcile(stranded, after=1)
    assert story.condition("Suspended") == ("True", "Suspended")
