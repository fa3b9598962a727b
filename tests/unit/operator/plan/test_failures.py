"""The class of each failure, who has to act, and whether another attempt follows."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from promptintern_api.contract import RUN_FORMAT
from promptintern_operator.plan import DeleteRayJob, StartAttempt
from promptintern_operator.views import PodView

from tests.unit.operator.builders import (
    CLUSTER,
    HEAD,
    WORKER,
    Story,
    container,
    crashed,
    failed,
    ray_job,
    renamed,
    running,
    waiting_pod,
)

OOM = container("ray-worker", exit_code=137, exit_reason="OOMKilled", memory_limit="8Gi")
USED_UP = "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory."
EXIT = "Job entrypoint command failed with exit code {}, last available logs (truncated):\nlast words"


def _worker(**changes: Any) -> PodView:
    return renamed(WORKER, **changes)


@pytest.mark.parametrize(
    ("message", "worker", "outcome", "says"),
    [
        (EXIT.format(2), WORKER, "User", "last words"),
        (EXIT.format(1), WORKER, "Application", "last words"),
        (EXIT.format(137), WORKER, "Application", "last words"),
        (EXIT.format(75), WORKER, "Infrastructure", "last words"),
        (EXIT.format(75), _worker(containers=(OOM,)), "Application", "its memory limit of 8Gi"),
        (EXIT.format(143), WORKER, "Infrastructure", "the driver was stopped"),
        (EXIT.format(130), WORKER, "Infrastructure", "the driver was stopped"),
        (EXIT.format(-15), WORKER, "Infrastructure", "the driver was stopped"),
        (EXIT.format(-2), WORKER, "Infrastructure", "the driver was stopped"),
        (EXIT.format(1), _worker(containers=(OOM,)), "Application", "its memory limit of 8Gi"),
        ("", _worker(containers=(OOM,)), "Application", "spec.compute.resources.memory"),
        (EXIT.format(2), _worker(containers=(OOM,)), "User", "last words"),
        (USED_UP, WORKER, "Application", "low on memory"),
        (USED_UP, WORKER, "Application", "container ray-worker came close to its memory limit of 8Gi"),
        (
            EXIT.format(1),
            _worker(disrupted="PreemptionByScheduler"),
            "Preemption",
            "pod worker (PreemptionByScheduler)",
        ),
        (
            EXIT.format(1),
            _worker(disrupted="EvictionByEvictionAPI"),
            "Preemption",
            "pod worker (EvictionByEvictionAPI)",
        ),
        (EXIT.format(1), _worker(disrupted="DeletionByTaintManager"), "Preemption", "the cluster removed"),
        (
            EXIT.format(1),
            _worker(disrupted="TerminationByKubelet", reason="Terminated"),
            "Preemption",
            "the cluster removed",
        ),
        (EXIT.format(1), _worker(disrupted="TerminationByKubelet", reason="Evicted"), "Infrastructure", "Evicted"),
        (EXIT.format(1), _worker(disrupted="DeletionByPodGC"), "Infrastructure", "pod worker (DeletionByPodGC)"),
        (EXIT.format(1), _worker(reason="Evicted"), "Infrastructure", "pod worker (Evicted)"),
        (EXIT.format(1), _worker(reason="NodeLost"), "Infrastructure", "the cluster lost pod worker (NodeLost)"),
        ("Unexpected error occurred: the actor died", WORKER, "Infrastructure", "the actor died"),
        ("", WORKER, "Infrastructure", "KubeRay gave no reason"),
    ],
)
def test_a_failure_is_classified_by_its_cause(message: str, worker: PodView, outcome: str, says: str) -> None:
    story = running()
    story.reconcile(failed(message=message), HEAD, worker)
    assert story.attempt["outcome"] == outcome
    assert says in story.attempt["message"]


def test_a_memory_error_of_the_trainer_is_reported_with_the_limit() -> None:
    story = running()
    message = "the workers failed with: OutOfMemoryError: Ray killed a worker that used 7.7GB"
    story.training = {"term": 1, "failure": {"class": "Application", "message": message, "rayJob": "small-a1"}}
    story.reconcile(failed(message=EXIT.format(1)), HEAD)
    assert story.attempt["outcome"] == "Application"
    assert "container ray-worker" in story.attempt["message"]
    assert "limit of 8Gi" in story.attempt["message"]
    assert "used 7.7GB" in story.attempt["message"]


def test_the_tail_of_a_long_message_is_kept() -> None:
    story = running()
    lines = "\n".join(f"line {number}" for number in range(500))
    story.reconcile(failed(message=f"Job failed with exit code 1:\n{lines}"), HEAD)
    assert "line 499" in story.attempt["message"]
    assert "line 400" not in story.attempt["message"]


def test_a_sidecar_that_was_killed_for_memory_does_not_explain_a_failure_of_the_trainer() -> None:
    story = running()
    logs = container("logs", exit_code=137, exit_reason="OOMKilled")
    story.reconcile(failed(message=EXIT.format(1)), renamed(HEAD, containers=(*HEAD.containers, logs)))
    assert story.attempt["outcome"] == "Application"
    assert "last words" in story.attempt["message"]


def test_a_sidecar_that_was_killed_for_memory_is_not_remembered_for_the_head() -> None:
    story = running()
    logs = container("logs", exit_code=137, exit_reason="OOMKilled")
    story.reconcile(*CLUSTER[:1], renamed(HEAD, containers=(*HEAD.containers, logs)), WORKER)
    assert all("reason" not in pod for pod in story.attempt["pods"])
    story.reconcile(failed(message=EXIT.format(1)))
    assert "last words" in story.attempt["message"]


@pytest.mark.parametrize(("hours", "outcome"), [(4, "Preemption"), (0, "Application")])
def test_a_worker_that_ran_out_of_memory_long_ago_did_not_end_the_attempt(hours: float, outcome: str) -> None:
    """Ray replaces the worker."""
    story = running()
    dead = _worker(phase="Failed", containers=(replace(OOM, ended_at=story.now),))
    story.reconcile(CLUSTER[0], HEAD, dead)
    other = renamed(WORKER, name="worker-2", uid="uid-of-worker-2")
    story.reconcile(CLUSTER[0], HEAD, other, after=hours * 3600)
    ended = failed(message=EXIT.format(75), ended=story.now)
    story.reconcile(ended, renamed(other, disrupted="EvictionByEvictionAPI"), after=60)
    assert story.attempt["outcome"] == outcome


@pytest.mark.parametrize(
    ("failure_class", "about", "outcome"),
    [
        ("User", "small-a1", "User"),
        ("User", "small-a0", "Application"),
        ("User", None, "Application"),
        ("Infrastructure", "small-a1", "Infrastructure"),
        ("Infrastructure", "small-a0", "Application"),
        ("Preemption", "small-a1", "Application"),
    ],
)
def test_the_trainers_failure_class_chooses_a_budget_but_never_makes_a_failure_free(
    failure_class: str, about: str | None, outcome: str
) -> None:
    story = running()
    failure = {"class": failure_class, "message": "row 7 has no answer"} | ({"rayJob": about} if about else {})
    story.training = {"term": 1, "failure": failure}
    story.reconcile(crashed(), HEAD)
    assert story.attempt["outcome"] == outcome
    assert ("row 7 has no answer" in story.attempt["message"]) == (about == "small-a1")


def test_a_job_that_succeeds_is_over() -> None:
    story = running()
    result = story.reconcile(ray_job(deployment="Complete", job_status="SUCCEEDED"), HEAD, after=60)
    assert result.actions == ()
    assert story.condition("Succeeded") == ("True", "Succeeded")
    assert story.condition("Failed") is None
    assert story.condition("Training") == ("False", "Ended")
    assert story.attempt["outcome"] == "Succeeded"
    assert story.status["completionTime"] == story.attempt["finishedAt"]
    assert "currentHeadPodUID" not in story.status
    assert story.phase == "Succeeded"
    assert story.attempt["activeSeconds"] == 60


def test_a_job_stopped_in_ray_did_not_succeed() -> None:
    story = running()
    story.reconcile(ray_job(deployment="Complete", job_status="STOPPED"), HEAD)
    assert story.attempt["outcome"] == "Application"
    assert "stopped from outside" in story.attempt["message"]


def test_a_complete_ray_job_that_did_not_succeed_has_failed() -> None:
    story = running()
    story.reconcile(ray_job(deployment="Complete", job_status="FAILED", message=EXIT.format(1)), HEAD)
    assert story.attempt["outcome"] == "Application"


def test_the_success_of_a_ray_job_that_is_being_deleted_counts() -> None:
    """KubeRay can be configured to delete finished RayJobs."""
    story = running()
    story.reconcile(ray_job(deployment="Complete", job_status="SUCCEEDED", deleting=True))
    assert story.phase == "Succeeded"


def test_a_users_error_is_final() -> None:
    story = running()
    result = story.reconcile(crashed(code=2), HEAD)
    assert result.actions == ()
    assert story.condition("Failed") == ("True", "Refused")
    assert story.condition("Succeeded") == ("False", "Refused")
    assert story.phase == "Failed"
    assert story.reconcile(crashed(code=2), HEAD, after=9999).actions == ()


def test_a_ray_job_that_kuberay_refuses_is_deleted_and_final() -> None:
    story = running()
    result = story.reconcile(ray_job(deployment="ValidationFailed", message="spec.x is wrong"))
    assert result.actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert story.phase == "Failed"
    assert "KubeRay refuses the RayJob: spec.x is wrong" in story.message("Failed")
    assert story.reconcile(ray_job(deployment="ValidationFailed", deleting=True)).actions == ()


def test_the_second_failure_of_the_trainer_is_final() -> None:
    story = running()
    result = story.reconcile(crashed(1), HEAD)
    assert story.condition("Failed") is None
    assert result.requeue_at is not None
    assert StartAttempt(2) in story.reconcile(crashed(1), after=20).actions
    story.reconcile(ray_job(2, "Running", "RUNNING"))
    result = story.reconcile(crashed(2))
    assert result.actions == ()
    assert story.condition("Failed") == ("True", "RetriesExhausted")
    assert story.message("Failed").startswith("attempt 2: ")


def test_no_retries_means_one_attempt() -> None:
    story = running(retries__application=0)
    story.reconcile(crashed(1), HEAD)
    assert story.phase == "Failed"


def test_each_class_has_its_own_budget() -> None:
    story = running(retries={"application": 1, "infrastructure": 1})
    for number, ended in [(1, crashed(1)), (2, failed(2, "the actor died"))]:
        story.reconcile(ended)
        assert story.condition("Failed") is None
        story.reconcile(after=1000)
        story.reconcile(ray_job(number + 1))
    story.reconcile(failed(3, "the actor died"))
    assert story.condition("Failed") == ("True", "RetriesExhausted")


def test_a_preemption_is_free_and_retried_soon() -> None:
    story = running(retries={"application": 0, "infrastructure": 0})
    pauses = []
    for number in range(1, 10):
        taken = renamed(HEAD, cluster=f"cluster-{number}", disrupted="PreemptionByScheduler")
        result = story.reconcile(failed(number, "gone"), taken)
        assert story.attempt["outcome"] == "Preemption"
        assert isinstance(result.requeue_at, datetime)
        pauses.append((result.requeue_at - story.now).total_seconds())
        assert story.reconcile(failed(number, "gone"), after=pauses[-1] - 0.001).actions == ()
        assert StartAttempt(number + 1) in story.reconcile(failed(number, "gone"), after=0.002).actions
        story.reconcile(ray_job(number + 1))
    assert story.condition("Failed") is None
    for pause, plain in zip(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert plain <= pause <= plain * 1.25


def test_a_resumed_job_starts_at_once() -> None:
    story = running()
    story.change(suspend=True)
    story.reconcile(*CLUSTER)
    story.reconcile()
    story.change(suspend=False)
    assert story.reconcile().actions == (StartAttempt(2),)


def test_a_budget_is_not_forgotten_after_many_preemptions() -> None:
    story = running(retries__application=1)
    story.reconcile(crashed(1))
    first = story.attempt
    preempted = [first | {"number": n, "rayJobName": f"small-a{n}", "outcome": "Preemption"} for n in range(2, 402)]
    story.status = story.status | {"attempts": [first, *preempted]}
    story.reconcile(after=1000)
    story.reconcile(ray_job(402))
    story.reconcile(crashed(402))
    assert len(story.status["attempts"]) == 320
    assert story.condition("Failed") == ("True", "RetriesExhausted")


def test_a_driver_that_saved_because_its_pod_was_deleted_is_free() -> None:
    story = running(retries={"application": 0, "infrastructure": 0})
    story.reconcile(failed(1, EXIT.format(143)), renamed(HEAD, deleting=True))
    assert story.attempt["outcome"] == "Preemption"
    assert "saved first" in story.attempt["message"]


def test_a_driver_that_was_killed_by_the_signal_did_not_save() -> None:
    story = running(retries={"application": 0, "infrastructure": 0})
    story.reconcile(failed(1, EXIT.format(-15)), renamed(HEAD, deleting=True))
    assert story.attempt["outcome"] == "Preemption"
    assert "ended before it could save" in story.attempt["message"]


def test_a_driver_that_was_stopped_before_its_pods_were_deleted_is_counted() -> None:
    """The kubelet ended the container; then KubeRay cleans up, as it does after every end."""
    story = running(retries={"application": 0, "infrastructure": 0})
    stopped = failed(1, EXIT.format(143), ended=story.now)
    story.reconcile(stopped, HEAD)
    requested = story.now + timedelta(seconds=2)
    story.reconcile(stopped, renamed(HEAD, deleting=True, deletion_requested=requested), after=2)
    story.reconcile(stopped, after=10)
    assert story.attempt["outcome"] == "Infrastructure"


def test_a_failed_and_a_backed_off_image_pull_are_one_reason() -> None:
    story = running()
    for reason in ("ErrImagePull", "ImagePullBackOff", "ErrImagePull"):
        stuck = waiting_pod("worker-2", role="worker", reason=reason, message="not delays", created=story.now)
        story.reconcile(ray_job(deployment="Initializing"), HEAD, stuck)
        assert story.condition("ClusterReady") == ("False", "ImagePullBackOff")


def _delays(uid: str, failures: int) -> list[float]:
    """Return the seconds between the end of each attempt and the start of the next."""
    story = running(retries__infrastructure=failures)
    story.job = story.job.model_copy(update={"metadata": story.job.metadata.model_copy(update={"uid": uid})})
    delays = []
    for number in range(1, failures + 1):
        result = story.reconcile(failed(number, "the actor died"))
        due = result.requeue_at
        assert isinstance(due, datetime)
        delays.append((due - story.now).total_seconds())
        assert story.reconcile(after=delays[-1] - 0.001).actions == ()
        assert StartAttempt(number + 1) in story.reconcile(after=0.002).actions
        story.reconcile(ray_job(number + 1))
    return delays


def test_delays_double_up_to_a_limit_with_a_little_jitter() -> None:
    delays = _delays("job-uid-1", 10)
    for number, delay in enumerate(delays):
        plain = min(10 * 2**number, 600)
        assert plain <= delay <= plain * 1.25
    assert _delays("job-uid-1", 10) == delays, "the delays of a job are deterministic"
    assert _delays("job-uid-2", 10) != delays, "jobs that failed together do not restart together"


def test_a_preemption_between_two_failures_resets_the_delays() -> None:
    story = running()
    story.reconcile(failed(1, "the actor died"))
    story.reconcile(after=13)
    story.reconcile(ray_job(2))
    story.reconcile(failed(2, "x"), renamed(HEAD, cluster="cluster-2", disrupted="PreemptionByScheduler"))
    story.reconcile(after=2)
    story.reconcile(ray_job(3))
    assert story.attempt["number"] == 3
    result = story.reconcile(failed(3, "the actor died"))
    assert result.requeue_at is not None
    assert (result.requeue_at - story.now).total_seconds() <= 12.5


def test_between_two_attempts_nothing_trains() -> None:
    story = running()
    result = story.reconcile(crashed(1), HEAD)
    assert story.condition("Training") != ("True", "Running")
    assert story.phase != "Training"
    assert any("boom" in event.message for event in result.events), "an Event reports the failure"


STUCK = [
    ("ImagePullBackOff", "Infrastructure"),
    ("CreateContainerError", "Infrastructure"),
    ("RunContainerError", "Infrastructure"),
    ("InvalidImageName", "User"),
    ("CreateContainerConfigError", "User"),
    ("ErrImageNeverPull", "User"),
]


@pytest.mark.parametrize(("reason", "outcome"), STUCK)
def test_a_stuck_pod_is_named_at_once_and_ends_the_attempt_after_the_limit(reason: str, outcome: str) -> None:
    story = running(retries__infrastructure=1)
    stuck = waiting_pod("worker-2", role="worker", reason=reason, message='secret "s3" not delays', created=story.now)
    seen = (ray_job(deployment="Initializing"), HEAD, stuck)
    result = story.reconcile(*seen)
    assert story.condition("ClusterReady") == ("False", reason)
    assert "worker-2 cannot start" in story.message("ClusterReady")
    assert 'secret "s3" not delays' in story.message("ClusterReady")
    assert result.requeue_at is not None
    assert story.reconcile(*seen, after=899).actions == ()
    result = story.reconcile(*seen, after=1)
    assert result.actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert story.attempt["outcome"] == outcome
    assert "gave up after 900 s" in story.attempt["message"]
    assert (story.phase == "Failed") == (outcome == "User")


def test_an_unschedulable_pod_reports_what_is_missing() -> None:
    story = running()
    message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    pending = renamed(WORKER, phase="Pending", ready=False, unschedulable=message)
    story.reconcile(ray_job(deployment="Initializing"), HEAD, pending)
    assert story.condition("ClusterReady") == ("False", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in story.message("ClusterReady")


def test_a_stuck_pod_that_starts_after_all_is_no_failure() -> None:
    story = running()
    seen = (ray_job(deployment="Initializing"), HEAD)
    story.reconcile(*seen, waiting_pod("w", role="worker", reason="ImagePullBackOff"))
    story.reconcile(*CLUSTER, after=800)
    assert story.condition("ClusterReady") == ("True", "Ready")
    story.reconcile(*CLUSTER, after=800)
    assert "outcome" not in story.attempt


def test_a_retried_attempt_leaves_no_older_ray_job_beside_it() -> None:
    """The deletion comes first, even if the operator stopped before it deleted the stuck RayJob."""
    story = running()
    seen = (ray_job(deployment="Initializing"), waiting_pod(reason="ImagePullBackOff"))
    story.reconcile(*seen)
    story.reconcile(*seen, after=900)
    assert story.attempt["outcome"] == "Infrastructure"
    assert story.reconcile(*seen, after=20).actions == (DeleteRayJob("small-a1", "ray-job-1"), StartAttempt(2))


def test_the_last_states_of_pods_are_kept_with_their_attempt() -> None:
    story = running()
    ended = renamed(WORKER, phase="Failed", containers=(container("ray-worker", exit_code=1, exit_reason="Error"),))
    story.reconcile(crashed(), HEAD, ended)
    assert story.attempt["pods"] == [
        {"name": "head", "node": "node-1", "phase": "Running"},
        {"name": "worker", "node": "node-1", "phase": "Failed", "reason": "Error", "exitCode": 1},
    ]


def test_pods_are_kept_for_the_newest_attempts_only() -> None:
    story = running(retries__infrastructure=20)
    for number in range(1, 9):
        story.reconcile(failed(number, "the actor died"), renamed(HEAD, cluster=f"cluster-{number}"))
        story.reconcile(after=1000)
        story.reconcile(ray_job(number + 1, cluster=f"cluster-{number + 1}"))
    assert [bool(attempt.get("pods")) for attempt in story.attempts] == [False] * 4 + [True] * 4 + [False]


def test_the_end_keeps_the_pods_that_were_seen_before() -> None:
    story: Story = running()
    story.reconcile(failed(message="the head is gone"))
    assert [p["name"] for p in story.attempt["pods"]] == ["head", "worker"]


@pytest.mark.parametrize("run_format", [None, "1.0", "3.0"])
def test_an_attempt_that_another_version_started_ends_for_that_reason(run_format: str | None) -> None:
    story = running()
    old = ray_job(deployment="Running", job_status="RUNNING", run_format=run_format)
    result = story.reconcile(old, HEAD, WORKER)
    assert result.actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert story.attempt["outcome"] == "User"
    assert f"format {run_format or '1.0'} and not {RUN_FORMAT}; delete the PromptInternJob" in story.attempt["message"]
    reasons = {c["type"]: (c["status"], c["reason"]) for c in story.status["conditions"]}
    assert reasons["Failed"] == ("True", "UnsupportedRunFormat")
    assert "UnsupportedRunFormat" in {event.reason for event in result.events}


def test_an_attempt_of_another_version_that_has_ended_keeps_its_own_end() -> None:
    story = running()
    story.reconcile(ray_job(deployment="Complete", job_status="SUCCEEDED", run_format=None), HEAD)
    assert story.attempt["outcome"] == "Succeeded"
