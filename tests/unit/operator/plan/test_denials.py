"""Actions that the API server denies: the job reports them, and they are retried and finally given up."""

from datetime import datetime, timedelta

import pytest
from promptintern_operator.plan import Action, DeleteRayJob, Denial, Plan, StartAttempt, StartPreflight
from promptintern_operator.plan.denials import EARLIER_JOB, NAME_TAKEN, denial_for

from tests.unit.operator.builders import CLUSTER, NOW, Story, accepted, preflight, ray_job, running, waiting_pod

QUOTA = 'rayjobs.ray.io "small-a1" is forbidden: exceeded quota: few, requested: count/rayjobs.ray.io=1'


def _denial(
    action: Action, *, reason: str = "QuotaExceeded", since: float = 0, at: float = 0, times: int = 1
) -> Denial:
    """Return a denial whose times are seconds after ``NOW``."""
    first, last = NOW + timedelta(seconds=since), NOW + timedelta(seconds=at)
    return Denial(action=action, reason=reason, message="exceeded quota: few", since=first, at=last, times=times)


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (403, QUOTA, "QuotaExceeded"),
        (403, "configmaps is forbidden: in namespace x because it is being terminated", "NamespaceTerminating"),
        (403, "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", "CreateFailed"),
        (400, 'admission webhook "w" denied the request: no', "CreateFailed"),
        (404, "Not Found", "CreateFailed"),
        (422, 'RayJob.ray.io "small-a1" is invalid: spec', "Invalid"),
        (422, "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", "CreateFailed"),
        (500, 'failed calling webhook "w"', "CreateFailed"),
        (500, "etcdserver: request timed out", None),
        *((passing, "not now", None) for passing in (0, 401, 409, 429, 503, 504)),
    ],
)
def test_a_lasting_error_is_a_denial_and_a_transient_one_is_not(status: int, message: str, reason: str | None) -> None:
    denial = denial_for(StartAttempt(1), None, status=status, reason="Forbidden", message=message, now=NOW)
    assert (denial and denial.reason) == reason
    assert denial is None or message in denial.message


def test_a_missing_kind_is_named() -> None:
    """An operator that is limited to namespaces cannot detect KubeRay, and notices only here."""
    denial = denial_for(StartAttempt(1), None, status=404, reason="None", message="Not Found", now=NOW)
    assert denial is not None
    assert "check that KubeRay is installed" in denial.message


def test_denials_in_a_row_are_counted() -> None:
    first = denial_for(StartAttempt(1), None, status=403, reason="", message=QUOTA, now=NOW)
    later = NOW + timedelta(seconds=9)
    second = denial_for(StartAttempt(1), first, status=403, reason="", message=QUOTA, now=later)
    assert second is not None
    assert (second.since, second.at, second.times) == (NOW, later, 2)
    much_later = NOW + timedelta(hours=1)
    third = denial_for(StartAttempt(1), second, status=403, reason="", message=QUOTA, now=much_later)
    assert third is not None
    assert (third.since, third.times) == (much_later, 1), "it was not retried in between"
    other = denial_for(StartAttempt(2), second, status=403, reason="", message=QUOTA, now=later)
    assert other is not None
    assert (other.since, other.times) == (later, 1)


def test_a_denied_check_is_reported_and_retried() -> None:
    story = Story()
    story.reconcile()
    result = story.reconcile(_denial(StartPreflight(1)))
    assert story.condition("Accepted") == ("Unknown", "QuotaExceeded")
    assert "exceeded quota: few" in story.message("Accepted")
    assert [(each.reason, each.warning) for each in result.events] == [("QuotaExceeded", True)]
    assert result.actions == ()
    assert result.requeue_at == NOW + timedelta(seconds=1)
    assert story.reconcile(_denial(StartPreflight(1)), after=1).actions == (StartPreflight(1),)
    story.reconcile(preflight(), after=1)
    assert story.condition("Accepted") == ("Unknown", "Checking")


def test_a_denied_attempt_is_reported_and_retried() -> None:
    story = accepted()
    result = story.reconcile(_denial(StartAttempt(1)))
    assert story.condition("ClusterReady") == ("False", "QuotaExceeded")
    assert [(each.reason, each.warning) for each in result.events] == [("QuotaExceeded", True)]
    assert result.actions == ()
    assert story.reconcile(_denial(StartAttempt(1)), after=1).actions == (StartAttempt(1),)
    assert story.reconcile(after=1).actions == (StartAttempt(1),), "a new operator was not denied yet"
    assert story.condition("ClusterReady") == ("False", "QuotaExceeded"), "and does not report that all is well"
    story.reconcile(ray_job(deployment=""), after=1)
    assert story.condition("ClusterReady") == ("False", "Starting")
    assert len(story.attempts) == 1


def test_a_changed_spec_is_tried_at_once() -> None:
    story = Story()
    story.reconcile(_denial(StartPreflight(1)))
    story.change(data__train__uri="s3://rows/right.jsonl")
    assert story.reconcile(_denial(StartPreflight(1))).actions == (StartPreflight(2),)
    assert story.condition("Accepted") == ("Unknown", "Checking")


def test_the_delays_between_retries_double_up_to_a_minute() -> None:
    story = accepted()
    waits = []
    for times in range(1, 10):
        result = story.reconcile(_denial(StartAttempt(1), at=0, times=times))
        assert isinstance(result.requeue_at, datetime)
        waits.append((result.requeue_at - NOW).total_seconds())
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_check_that_is_denied_for_long_ends_the_job_as_a_stuck_pod_does() -> None:
    story = Story()
    story.reconcile()
    assert story.reconcile(_denial(StartPreflight(1), at=899), after=899).actions == ()
    assert story.condition("Failed") is None
    result = story.reconcile(_denial(StartPreflight(1), at=901), after=1)
    assert story.condition("Failed") == ("True", "QuotaExceeded")
    assert result.actions == ()


def test_an_attempt_that_is_denied_for_long_is_followed_by_another() -> None:
    story = accepted()
    story.reconcile(_denial(StartAttempt(1), at=900), after=900)
    assert story.attempt["outcome"] == "Infrastructure"
    assert "gave up after 900 s" in story.attempt["message"]
    assert story.reconcile(_denial(StartAttempt(1), at=900), after=20).actions == (StartAttempt(2),)
    assert story.condition("ClusterReady") == ("False", "Starting")


def test_an_attempt_that_was_not_tried_for_long_is_retried_before_it_is_given_up() -> None:
    story = accepted()
    assert story.reconcile(_denial(StartAttempt(1), at=5), after=3600).actions == (StartAttempt(1),)
    assert "outcome" not in story.attempt


@pytest.mark.parametrize("reason", [NAME_TAKEN, EARLIER_JOB])
def test_a_name_that_is_taken_is_waited_for(reason: str) -> None:
    message = "ConfigMap promptintern-small already exists"
    denial = denial_for(StartAttempt(1), None, status=409, reason=reason, message=message, now=NOW)
    assert denial is not None
    assert (denial.reason, denial.message) == (reason, message)
    for story, action, kind in (
        (Story(), StartPreflight(1), "Accepted"),
        (accepted(), StartAttempt(1), "ClusterReady"),
    ):
        result = story.reconcile(_denial(action, reason=reason, at=10**6), after=10**6)
        condition = story.condition(kind)
        assert condition is not None
        assert condition[1] == reason
        assert story.condition("Failed") is None
        assert [each.warning for each in result.events if each.reason == reason] == [reason == NAME_TAKEN]


def _stuck(story: Story) -> Plan:
    """End the first attempt and return that plan."""
    stuck = (ray_job(deployment="Initializing"), waiting_pod(reason="ImagePullBackOff"))
    story.reconcile(*stuck)
    return story.reconcile(*stuck, after=900)


def test_a_denied_deletion_is_reported_and_nothing_starts_beside_it() -> None:
    story = running()
    delete = DeleteRayJob("small-a1", "ray-job-1")
    assert _stuck(story).actions == (delete,)
    denial = denial_for(delete, None, status=403, reason="Forbidden", message="a policy denied it", now=story.now)
    assert denial is not None
    assert denial.reason == "DeleteFailed"
    again = Denial(**(vars(denial) | {"at": story.now + timedelta(seconds=99)}))
    result = story.reconcile(ray_job(deployment="Initializing"), again, after=99)
    assert story.condition("ClusterReady") == ("False", "DeleteFailed")
    assert result.actions == ()
    assert story.reconcile(ray_job(deployment="Initializing"), again, after=1).actions == (delete, StartAttempt(2))


def test_an_earlier_denial_does_not_hold_up_other_actions() -> None:
    story = running()
    assert story.reconcile(*CLUSTER, _denial(StartAttempt(1))).actions == ()
    assert story.condition("ClusterReady") == ("True", "Ready")


def test_an_invalid_object_is_not_created_again() -> None:
    """It depends on the spec alone, which is fixed by now."""
    story = accepted()
    story.reconcile(_denial(StartAttempt(1), reason="Invalid"))
    assert story.attempt["outcome"] == "User"
    assert story.condition("Failed") == ("True", "Refused")
    assert story.reconcile(after=60).actions == ()


def test_an_invalid_check_waits_for_another_spec() -> None:
    story = Story()
    story.reconcile()
    assert story.reconcile(_denial(StartPreflight(1), reason="Invalid")).actions == ()
    assert story.condition("Accepted") == ("False", "Refused")
    assert story.phase == "Refused"
    assert story.reconcile(after=999).actions == ()
    story.change(compute__workers=2)
    assert StartPreflight(2) in story.reconcile(after=1).actions
