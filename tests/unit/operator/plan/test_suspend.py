"""spec.suspend: the trainer saves, and the RayJob is deleted; resuming is a new attempt."""

from promptintern_operator.plan import DeleteRayJob, StartAttempt

from tests.unit.operator.builders import (
    CLUSTER,
    HEAD,
    QUEUE_LABEL,
    Story,
    accepted,
    crashed,
    failed,
    preflight,
    ray_job,
    renamed,
    running,
)

DELETING = ray_job(deployment="Running", job_status="RUNNING", deleting=True)


def _suspending() -> Story:
    story = running()
    story.change(suspend=True)
    return story


def test_suspending_deletes_the_ray_job_and_waits_for_its_end() -> None:
    story = _suspending()
    result = story.reconcile(*CLUSTER)
    assert result.actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert story.condition("Suspended") == ("False", "Saving")
    assert story.condition("Training") == ("False", "Suspended")
    assert "outcome" not in story.attempt
    assert story.reconcile(DELETING, HEAD).actions == ()
    assert "RayJob small-a1" in story.message("Suspended")
    assert "KubeRay must be running" in story.message("Suspended")
    assert story.reconcile(renamed(HEAD, deleting=True)).actions == ()
    assert story.condition("Suspended") == ("False", "Saving"), "the pods are still saving"
    story.reconcile()
    assert story.condition("Suspended") == ("True", "Suspended")
    assert story.attempt["outcome"] == "Suspended"
    assert "currentHeadPodUID" not in story.status
    assert story.phase == "Suspended"


def test_only_the_pods_of_a_ray_cluster_hold_up_a_suspension() -> None:
    """A tenant may label any pod as one of the job's, also the pod of the check."""
    story = _suspending()
    others = (renamed(HEAD, cluster=None, preflight_uid="check-1"), renamed(HEAD, cluster=None, name="labelled"))
    for objects in (CLUSTER, (DELETING,)):
        story.reconcile(*objects, *others)
    assert story.condition("Suspended") == ("False", "Saving")
    story.reconcile(*others)
    assert story.condition("Suspended") == ("True", "Suspended")


def test_resuming_is_a_new_attempt_that_is_free() -> None:
    story = _suspending()
    for objects in (CLUSTER, (DELETING,), ()):
        story.reconcile(*objects)
    story.change(suspend=False)
    result = story.reconcile(after=3600)
    assert result.actions == (StartAttempt(2),)
    assert [attempt.get("outcome") for attempt in story.attempts] == ["Suspended", None]
    assert story.condition("Suspended") == ("False", "Resumed")
    story.reconcile(ray_job(2))
    story.reconcile(crashed(2))
    assert story.condition("Failed") is None, "the suspended attempt does not count against the budget"


def test_resuming_while_the_ray_job_is_deleted_is_no_failure() -> None:
    story = _suspending()
    story.reconcile(*CLUSTER)
    story.reconcile(DELETING, HEAD)
    story.change(suspend=False)
    assert story.reconcile(DELETING, HEAD).actions == ()
    result = story.reconcile()
    assert story.attempts[0]["outcome"] == "Suspended"
    assert result.requeue_at == story.now or StartAttempt(2) in result.actions
    if StartAttempt(2) not in result.actions:
        assert story.reconcile().actions == (StartAttempt(2),)


def test_resuming_before_the_ray_job_was_deleted_goes_on_with_it() -> None:
    story = _suspending()
    story.reconcile(*CLUSTER)
    story.change(suspend=False)
    assert story.reconcile(*CLUSTER).actions == ()
    assert story.phase == "Training"
    assert story.attempt["number"] == 1
    assert "activeSince" in story.attempt
    story.reconcile(after=10)
    assert story.attempt["outcome"] == "Infrastructure", "this time it was not suspended"


def test_suspended_time_is_not_active() -> None:
    story = _suspending()
    story.reconcile(*CLUSTER, after=30)
    assert story.attempt["activeSeconds"] == 30
    story.reconcile(DELETING, after=1000)
    story.reconcile(after=1000)
    assert story.attempt["activeSeconds"] == 30
    assert "activeSince" not in story.attempt


def test_suspending_before_the_ray_job_was_seen() -> None:
    story = accepted()
    story.change(suspend=True)
    assert story.reconcile().actions == ()
    assert story.phase == "Suspended"
    late = story.reconcile(ray_job(deployment=""))
    assert late.actions == (DeleteRayJob("small-a1", "ray-job-1"),), "it was created after all"
    assert story.reconcile(ray_job(deployment="", deleting=True)).actions == ()


def test_suspending_between_two_attempts() -> None:
    story = running()
    story.reconcile(failed(1, "the actor died"))
    story.change(suspend=True)
    assert story.reconcile(after=1000).actions == ()
    assert story.phase == "Suspended"
    story.change(suspend=False)
    assert story.reconcile().actions == (StartAttempt(2),)


def test_suspending_drops_the_quota() -> None:
    story = accepted(labels=QUEUE_LABEL)
    story.reconcile(*CLUSTER)
    story.change(suspend=True)
    story.reconcile(*CLUSTER)
    story.reconcile()
    assert story.condition("QuotaReserved") is None


def test_a_job_that_succeeded_just_before_it_was_suspended_has_succeeded() -> None:
    story = _suspending()
    story.reconcile(ray_job(deployment="Complete", job_status="SUCCEEDED"), HEAD)
    assert story.phase == "Succeeded"


def test_suspending_does_not_hide_a_failure_from_its_budget() -> None:
    story = _suspending()
    story.reconcile(crashed(1), HEAD)
    assert story.attempt["outcome"] == "Application"
    story.reconcile(crashed(1))
    assert story.phase == "Suspended"


def test_a_job_whose_attempt_failed_as_it_was_suspended_is_suspended_at_once() -> None:
    story = running()
    story.change(suspend=True)
    story.reconcile(ray_job(deployment="Complete", job_status="STOPPED"))
    assert story.attempt["outcome"] == "Application"
    assert story.phase == "Suspended"
    before = story.status
    assert story.reconcile(ray_job(deployment="Complete", job_status="STOPPED")).events == ()
    assert story.status == before


def test_suspending_a_job_that_ended_changes_nothing() -> None:
    story = running()
    ended = ray_job(deployment="Complete", job_status="SUCCEEDED")
    story.reconcile(ended)
    before = story.status
    story.change(suspend=True)
    assert story.reconcile(ended).actions == ()
    assert story.status | {"observedGeneration": 1} == before


def test_a_job_accepted_before_it_was_suspended_stays_accepted() -> None:
    story = accepted()
    story.change(suspend=True)
    story.reconcile(preflight(1, succeeded=True))
    assert story.condition("Accepted") == ("True", "Valid")
