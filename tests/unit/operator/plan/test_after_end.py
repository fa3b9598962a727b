"""A job that has ended: nothing starts any more, leftovers are deleted, and after its TTL the job itself."""

import pytest
from promptintern_operator.plan import DeleteJob, DeletePreflight, DeleteRayJob
from promptintern_operator.views import RayJobView

from tests.unit.operator.builders import CLUSTER, NO_KUBERAY, Story, crashed, preflight, ray_job, running, waiting_pod

DONE = ray_job(deployment="Complete", job_status="SUCCEEDED")


def _succeeded(**spec: int) -> Story:
    story = running(**spec)
    story.reconcile(DONE)
    return story


@pytest.mark.parametrize("late", [(), CLUSTER, (DONE,), (crashed(),), (ray_job(deployment="Suspended"),)])
def test_a_job_that_ended_never_changes(late: tuple[object, ...]) -> None:
    story = _succeeded()
    before = story.status
    actions = story.reconcile(*late, after=1000).actions
    assert story.status == before
    assert all(isinstance(action, DeleteRayJob) for action in actions)


def test_the_ray_job_that_ended_stays_and_the_check_is_deleted() -> None:
    story = _succeeded()
    assert story.reconcile(DONE, preflight(succeeded=True)).actions == (DeletePreflight("small-check-1", "check-1"),)
    assert story.reconcile(DONE, preflight(succeeded=True, deleting=True)).actions == ()


@pytest.mark.parametrize(
    ("seen", "goes"),
    [
        (ray_job(1, "Running"), True),
        (ray_job(1, "Running", deleting=True), False),
        (ray_job(1, "Complete"), False),
        (ray_job(1, "Failed"), False),
        (ray_job(7, "Running"), True),
        (ray_job(7, "Complete"), True),
        (ray_job(7, "ValidationFailed"), True),
    ],
)
def test_leftover_ray_jobs_are_deleted(seen: RayJobView, goes: bool) -> None:
    story = _succeeded()
    assert story.reconcile(seen).actions == ((DeleteRayJob(seen.name, seen.uid),) if goes else ())


def test_a_ray_job_that_waits_for_kuberay_is_reported_until_it_is_gone() -> None:
    story = running(activeDeadlineSeconds=10)
    assert story.reconcile(*CLUSTER, after=20).actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert story.condition("ClusterReady") == ("False", "Ended")
    leaving = ray_job(job_status="RUNNING", deleting=True)
    result = story.reconcile(leaving, after=1)
    assert story.condition("ClusterReady") == ("False", "Removing")
    assert "small-a1" in story.message("ClusterReady")
    assert "KubeRay must be running" in story.message("ClusterReady")
    assert [each.warning for each in result.events] == [False], "it is usually over within seconds"
    assert story.reconcile(leaving, after=1000).events == ()
    story.reconcile(after=1)
    assert story.condition("ClusterReady") == ("False", "Ended")


def test_a_suspended_job_reports_an_older_ray_job_that_waits_for_kuberay() -> None:
    story = running()
    stuck = (ray_job(deployment="Initializing"), waiting_pod(reason="ImagePullBackOff"))
    story.reconcile(*stuck)
    story.reconcile(*stuck, after=900)
    story.change(suspend=True)
    leaving = ray_job(deployment="Initializing", deleting=True)
    story.reconcile(leaving, after=1)
    assert story.condition("Suspended") == ("True", "Suspended")
    assert story.condition("ClusterReady") == ("False", "Removing")
    story.reconcile(after=1)
    assert story.condition("ClusterReady") == ("False", "Suspended")


def test_a_job_is_deleted_after_its_ttl() -> None:
    story = _succeeded(ttlSecondsAfterFinished=60)
    result = story.reconcile(DONE, after=59)
    assert result.actions == ()
    assert result.requeue_at is not None
    assert (result.requeue_at - story.now).total_seconds() == 1
    assert story.reconcile(DONE, after=1).actions == (DeleteJob(),)


def test_a_job_with_a_ttl_of_zero_goes_at_once() -> None:
    assert _succeeded(ttlSecondsAfterFinished=0).reconcile(DONE).actions == (DeleteJob(),)


def test_the_plan_that_ends_a_job_requeues_it_for_its_ttl() -> None:
    story = running(ttlSecondsAfterFinished=60)
    result = story.reconcile(DONE)
    assert result.actions == ()
    assert result.requeue_at is not None
    assert (result.requeue_at - story.now).total_seconds() == 60


def test_a_job_without_ttl_stays() -> None:
    result = _succeeded().reconcile(DONE, after=10**8)
    assert result.actions == ()
    assert result.requeue_at is None


def test_a_ttl_given_after_the_end_counts() -> None:
    story = _succeeded()
    story.change(ttlSecondsAfterFinished=10)
    assert story.reconcile(DONE, after=100).actions == (DeleteJob(),)


def test_a_running_job_has_no_ttl() -> None:
    assert running(ttlSecondsAfterFinished=0).reconcile(*CLUSTER, after=100).actions == ()


def test_kuberay_is_not_needed_any_more() -> None:
    story = _succeeded()
    before = story.status
    story.reconcile(kuberay=NO_KUBERAY)
    assert story.status == before


def test_raising_the_budget_after_the_end_starts_nothing() -> None:
    story = running(retries__application=0)
    story.reconcile(crashed())
    story.change(retries__application=5)
    assert story.reconcile(crashed(), after=1000).actions == ()
    assert story.phase == "Failed"
