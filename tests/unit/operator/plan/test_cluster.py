"""A Ray cluster that does not come up: the job reports why at once, and its attempt does not wait for ever."""

import pytest
from promptintern_operator.plan import DeleteRayJob
from promptintern_operator.views import RayJobView

from tests.unit.operator.builders import HEAD, Story, accepted, container, pod, ray_job, waiting_pod

QUOTA = 'pods "small-head" is forbidden: exceeded quota: few, requested: pods=1, used: pods=4, limited: pods=4'
POLICY = 'pods "small-head" is forbidden: violates PodSecurity "restricted:latest"'


def coming_up(**more: object) -> RayJobView:
    """Return the RayJob of the first attempt while its cluster comes up."""
    return ray_job(deployment="Initializing", **more)


def starting(**about: object) -> Story:
    """Return a job whose first Ray cluster is just starting."""
    story = accepted(**about)
    story.reconcile(coming_up(), waiting_pod(reason="ContainerCreating"))
    return story


def test_a_container_that_passes_its_limit_before_the_cluster_is_up_ends_the_attempt() -> None:
    story = starting(compute__headResources={"memory": "300Mi"}, retries__application=0)
    killed = container("ray-head", exit_code=137, exit_reason="OOMKilled", memory_limit="300Mi")
    result = story.reconcile(coming_up(), pod(phase="Failed", ready=False, containers=(killed,)), after=10)
    assert result.actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert story.attempt["outcome"] == "Application"
    assert story.condition("Training") == ("False", "Ended")
    assert "ray-head" in story.message("Failed")
    assert "limit of 300Mi" in story.message("Failed")
    assert "spec.compute.headResources.memory" in story.message("Failed")


def test_pods_that_keep_failing_are_reported_and_given_up() -> None:
    story = starting()
    ended = container(exit_code=127, exit_reason="Error", exit_message="ray: command not found")
    for number in range(1, 90):
        head = pod(f"head-{number}", phase="Failed", ready=False, containers=(ended,))
        story.reconcile(coming_up(), head, after=5)
        assert story.condition("ClusterReady") == ("False", "Starting")
        assert "0 of 1 pods" in story.message("ClusterReady")
        assert "exit code 127, ray: command not found" in story.message("ClusterReady")
        story.reconcile(coming_up(), waiting_pod(f"head-{number + 1}", reason="ContainerCreating"), after=5)
        assert "exit code 127" in story.message("ClusterReady"), "the previous pod explains it"
    assert len(story.attempts) == 1
    result = story.reconcile(coming_up(), pod("head-91", phase="Failed", ready=False, containers=(ended,)), after=15)
    assert result.actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert story.attempt["outcome"] == "Infrastructure"
    assert story.condition("Training") == ("False", "ClusterNotUp")
    assert "within 900 s: pod head-91: Error, exit code 127" in story.attempt["message"]


@pytest.mark.parametrize(("message", "reason"), [(QUOTA, "QuotaExceeded"), (POLICY, "PodsRefused")])
def test_pods_that_the_api_server_rejects_are_reported_at_once_and_given_up(message: str, reason: str) -> None:
    story = starting()
    result = story.reconcile(coming_up(pod_refusal=message))
    assert story.condition("ClusterReady") == ("False", reason)
    assert message in story.message("ClusterReady")
    assert [(each.reason, each.warning) for each in result.events] == [(reason, True)]
    assert result.requeue_at is not None
    assert (result.requeue_at - story.now).total_seconds() == 900
    assert story.reconcile(coming_up(pod_refusal=message), after=899).actions == ()
    assert story.reconcile(coming_up(pod_refusal=message), after=1).actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert story.attempt["outcome"] == "Infrastructure"
    assert message in story.attempt["message"]


def test_a_cluster_whose_pods_are_created_late_comes_up() -> None:
    story = starting()
    story.reconcile(coming_up(pod_refusal=QUOTA), after=600)
    story.reconcile(ray_job(deployment="Running", job_status="RUNNING"), HEAD, after=600)
    assert story.condition("ClusterReady") == ("True", "Ready")
    assert story.phase == "Training"


def test_an_image_pull_may_take_long() -> None:
    story = starting()
    assert story.reconcile(coming_up(), waiting_pod(reason="ContainerCreating"), after=3600).actions == ()
    assert len(story.attempts) == 1
    assert "outcome" not in story.attempt


def test_a_head_that_never_gets_ready_is_given_up() -> None:
    story = starting()
    silent = pod(ready=False)
    story.reconcile(coming_up(), silent)
    assert story.reconcile(coming_up(), silent, after=899).actions == ()
    assert story.reconcile(coming_up(), silent, after=1).actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert "pod head is Running but not ready" in story.attempt["message"]


def test_time_in_a_queue_does_not_count() -> None:
    story = accepted()
    story.reconcile(ray_job(deployment="Suspended", suspended=True, cluster=None, queue="team-a"), after=9999)
    assert story.reconcile(coming_up(queue="team-a"), after=1).actions == ()
    assert story.reconcile(coming_up(queue="team-a"), after=899).actions == ()
    assert story.reconcile(coming_up(queue="team-a"), after=1).actions != ()


def test_the_timeout_of_a_slow_start_counts_from_running_pods() -> None:
    """After ten minutes for a node and six for the image, Ray itself has not had a second yet."""
    story = starting()
    unready = pod(ready=False)
    assert story.reconcile(coming_up(), waiting_pod(reason="ContainerCreating"), after=960).actions == ()
    assert story.reconcile(coming_up(), unready, after=1).actions == ()
    assert story.reconcile(coming_up(), unready, after=899).actions == ()
    assert story.reconcile(coming_up(), unready, after=1).actions != ()


def test_a_pod_that_is_held_up_after_a_long_pull_gets_the_full_timeout() -> None:
    story = starting()
    held_up = waiting_pod(reason="CreateContainerConfigError", message="failed to sync secret cache")
    story.reconcile(coming_up(), waiting_pod(reason="ContainerCreating"), after=1200)
    assert story.reconcile(coming_up(), held_up, after=1).actions == ()
    assert story.condition("ClusterReady") == ("False", "CreateContainerConfigError")
    story.reconcile(coming_up(), waiting_pod(reason="ContainerCreating"), after=10)
    assert story.reconcile(coming_up(), held_up, after=895).actions == (), "it made progress in between"
    assert story.reconcile(coming_up(), held_up, after=900).actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert story.attempt["outcome"] == "User"


def test_a_cluster_that_kuberay_cannot_reach_is_reported_and_given_up() -> None:
    story = starting()
    silent = ray_job(deployment="Running", job_status="")
    result = story.reconcile(silent, HEAD)
    assert story.condition("ClusterReady") == ("True", "Ready")
    assert result.requeue_at is not None
    assert (result.requeue_at - story.now).total_seconds() == 60
    result = story.reconcile(silent, HEAD, after=60)
    assert story.condition("Training") == ("False", "NotSubmitted")
    assert "KubeRay is running in namespace kuberay (the chart's kuberayNamespace)" in story.message("Training")
    assert [(each.reason, each.warning) for each in result.events] == [("NotSubmitted", True)]
    assert story.reconcile(silent, HEAD, after=839).actions == ()
    assert story.reconcile(silent, HEAD, after=1).actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert story.attempt["outcome"] == "Infrastructure"


def test_a_job_that_is_submitted_late_goes_on() -> None:
    story = starting()
    story.reconcile(ray_job(deployment="Running", job_status=""), HEAD)
    story.reconcile(ray_job(deployment="Running", job_status=""), HEAD, after=600)
    story.reconcile(ray_job(deployment="Running", job_status="RUNNING"), HEAD, after=600)
    assert story.condition("Training") == ("True", "Running")
    assert "outcome" not in story.attempt


def test_a_failure_before_a_preemption_does_not_hold_up_a_later_start() -> None:
    """The attempt again takes ten minutes for a node and six for the image after it was requeued."""
    story = accepted()
    crashed = container("ray-worker", exit_code=1, exit_reason="Error", ended_at=story.now)
    lost = pod("worker", role="worker", phase="Failed", ready=False, containers=(crashed,))
    story.reconcile(ray_job(job_status="RUNNING", queue="team-a"), HEAD, lost, after=1)
    away = ray_job(deployment="Suspended", suspended=True, cluster=None, queue="team-a")
    story.reconcile(away, after=60)
    again = coming_up(queue="team-a", cluster="cluster-2")
    new = {"attempt": 2, "phase": "Pending", "ready": False}
    story.reconcile(
        again, pod("head-2", **new, node=None, containers=(), unschedulable="0/3 nodes are available"), after=60
    )
    pulls = waiting_pod("head-2", reason="ContainerCreating", attempt=2)
    assert story.reconcile(again, pulls, after=600).actions == ()
    unready = pod("head-2", attempt=2, ready=False)
    assert story.reconcile(again, unready, after=360).actions == ()
    assert story.reconcile(again, unready, after=899).actions == ()
    assert story.reconcile(again, unready, after=1).actions != ()


def test_pods_that_the_kubelet_rejects_are_given_up() -> None:
    """They fail without an exit code, and the next pod is bound to its node before it has a container."""
    story = starting()
    for number in range(90):
        rejected = pod(f"head-{number}", phase="Failed", ready=False, reason="OutOfcpu", containers=())
        story.reconcile(coming_up(), rejected, after=5)
        story.reconcile(coming_up(), pod(f"head-{number + 1}", phase="Pending", ready=False, containers=()), after=5)
    story.reconcile(
        coming_up(), pod("head-91", phase="Failed", ready=False, reason="OutOfcpu", containers=()), after=15
    )
    assert story.attempt["outcome"] == "Infrastructure"
    assert "OutOfcpu" in story.attempt["message"]
