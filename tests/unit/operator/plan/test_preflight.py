"""The check before the first attempt: when it starts, and what its result means."""

import json
from datetime import timedelta
from typing import Any

import pytest
from promptintern_operator.plan import DeletePreflight, StartAttempt, StartPreflight

from tests.unit.operator.builders import NOW, Story, accepted, job, preflight, preflight_pod, renamed

BACKOFF_LIMIT = "Job has reached the specified backoff limit"


def test_the_first_plan_starts_the_check_and_no_attempt() -> None:
    story = Story()
    assert story.reconcile().actions == (StartPreflight(1),)
    assert story.condition("Accepted") == ("Unknown", "Checking")
    assert story.phase == "Checking"
    assert "startTime" not in story.status


def test_a_check_that_runs_is_not_started_again() -> None:
    story = Story()
    story.reconcile()
    assert story.reconcile(preflight()).actions == ()
    assert story.phase == "Checking"


def test_a_check_that_was_never_created_is_started_again() -> None:
    story = Story()
    story.reconcile()
    assert story.reconcile(after=5).actions == (StartPreflight(1),)


def test_a_check_that_succeeds_starts_the_first_attempt() -> None:
    story = Story()
    story.reconcile()
    result = story.reconcile(preflight(succeeded=True), after=5)
    assert result.actions == (StartAttempt(1),)
    assert story.condition("Accepted") == ("True", "Valid")
    assert story.status["startTime"] == "2026-01-02T03:04:10Z"
    assert story.phase == "Starting"
    assert story.status["rayJobName"] == "small-a1"


def test_the_check_of_another_generation_is_ignored() -> None:
    story = Story(generation=2)
    result = story.reconcile(preflight(1, succeeded=True))
    assert StartPreflight(2) in result.actions
    assert StartAttempt(1) not in result.actions


def test_a_check_of_an_older_generation_is_removed_once() -> None:
    story = Story(generation=2)
    assert DeletePreflight("small-check-1", "check-1") in story.reconcile(preflight(1)).actions
    assert DeletePreflight("small-check-1", "check-1") not in story.reconcile(preflight(1, deleting=True)).actions


FINDINGS = json.dumps(
    [
        {"where": "data.train.uri", "message": "no such object"},
        {"where": "prompt.template", "message": "holds no {query}"},
    ]
)


def test_the_findings_of_the_check_are_reported_field_by_field() -> None:
    story = Story()
    result = story.reconcile(
        preflight(failed="Container check failed with exit code 2"),
        preflight_pod(exit_code=2, exit_reason="Error", exit_message=FINDINGS),
    )
    assert result.actions == ()
    assert story.condition("Accepted") == ("False", "Refused")
    assert story.message("Accepted") == "data.train.uri: no such object\nprompt.template: holds no {query}"
    assert story.phase == "Refused"
    assert "completionTime" not in story.status
    assert [event.warning for event in result.events] == [True]


@pytest.mark.parametrize("message", ["not JSON", "[1]", "{}", '[{"where": "x"}]', "null", '"text"'])
def test_malformed_findings_are_reported_verbatim(message: str) -> None:
    story = Story()
    story.reconcile(preflight(failed="failed"), preflight_pod(exit_code=2, exit_message=message))
    assert story.condition("Accepted") == ("False", "Refused")
    assert story.message("Accepted") == message


@pytest.mark.parametrize("retries", [0, 10])
@pytest.mark.parametrize("after", [5, 3600])
def test_a_refused_job_stays_refused_when_the_pod_of_its_check_is_gone(retries: int, after: float) -> None:
    story = Story(job=job(retries={"infrastructure": retries}))
    check = preflight(failed="failed")
    story.reconcile(check, preflight_pod(exit_code=2, exit_message=FINDINGS))
    assert story.reconcile(check, after=after).actions == ()
    assert (story.phase, story.condition("Accepted")) == ("Refused", ("False", "Refused"))


def test_a_refused_job_is_not_checked_again_until_its_spec_changes() -> None:
    story = Story()
    refused = (preflight(failed="failed"), preflight_pod(exit_code=2, exit_message=FINDINGS))
    story.reconcile(*refused)
    assert story.reconcile(*refused, after=3600).actions == ()
    assert story.reconcile(after=3600).actions == (), "even if the Job of the check is gone"
    story.change(data__train__uri="s3://rows/right.jsonl")
    result = story.reconcile(*refused)
    assert set(result.actions) == {StartPreflight(2), DeletePreflight("small-check-1", "check-1")}
    assert story.phase == "Checking"
    assert story.reconcile(preflight(2, succeeded=True)).actions == (StartAttempt(1),)
    assert story.phase == "Starting"


def test_a_check_that_fails_by_its_own_error_ends_the_job() -> None:
    story = Story()
    result = story.reconcile(
        preflight(failed=BACKOFF_LIMIT),
        preflight_pod(name="old", exit_code=1, exit_message="S3 is away"),
        preflight_pod(name="new", exit_code=1, exit_message="S3 is still away", created=NOW.replace(hour=5)),
    )
    assert story.condition("Accepted") == ("False", "CheckFailed")
    assert story.condition("Failed") == ("True", "CheckFailed")
    assert "S3 is still away" in story.message("Failed")
    assert story.phase == "Failed"
    assert "completionTime" in story.status
    assert result.actions == (DeletePreflight("small-check-1", "check-1"),)


def test_a_check_killed_for_memory_says_so() -> None:
    story = Story()
    story.reconcile(preflight(failed=BACKOFF_LIMIT), preflight_pod(exit_code=137, exit_reason="OOMKilled"))
    assert story.condition("Failed") == ("True", "CheckFailed")
    assert "memory limit of 4Gi" in story.message("Failed")


def test_a_failed_check_waits_for_its_pod_to_report() -> None:
    """The Job and its pods are delivered by different watches; the findings must not be lost through that."""
    story = Story()
    result = story.reconcile(preflight(failed="failed"), preflight_pod(phase="Running"))
    assert story.condition("Failed") is None
    assert result.requeue_at is not None
    story.reconcile(preflight(failed="failed"), preflight_pod(exit_code=2, exit_message=FINDINGS), after=1)
    assert story.condition("Accepted") == ("False", "Refused")


def test_a_check_that_took_too_long_ends_the_job() -> None:
    story = Story()
    story.reconcile(preflight(failed="the deadline passed", timed_out=True))
    story.reconcile(preflight(failed="the deadline passed", timed_out=True), after=61)
    assert story.condition("Failed") == ("True", "CheckFailed")
    assert "the deadline passed" in story.message("Failed")


LOST = [
    {"reason": "Evicted", "exit_code": 137},
    {"reason": "NodeShutdown", "exit_code": 143},
    {"disrupted": "PreemptionByScheduler", "exit_code": 143, "exit_message": "stopped"},
    {"disrupted": "DeletionByTaintManager", "exit_code": 1},
    {"exit_code": 137, "exit_reason": "Error"},
    {"exit_code": 75, "exit_message": '[{"where": "", "message": "the storage is away"}]'},
]


@pytest.mark.parametrize("how", LOST)
def test_a_lost_check_is_repeated(how: dict[str, Any]) -> None:
    story = Story()
    lost = (preflight(failed=BACKOFF_LIMIT), preflight_pod(**how))
    result = story.reconcile(*lost)
    assert story.condition("Accepted") == ("Unknown", "CheckLost")
    assert story.phase == "Checking"
    assert result.actions == ()
    assert result.requeue_at == NOW + timedelta(seconds=10)
    assert story.reconcile(*lost, after=10).actions == (StartPreflight(1, 2),)
    delete = DeletePreflight("small-check-1", "check-1")
    assert story.reconcile(*lost, preflight(number=2)).actions == (delete,)
    assert story.condition("Accepted") == ("Unknown", "Checking")
    assert story.reconcile(preflight(number=2, succeeded=True)).actions == (StartAttempt(1),)


def test_a_check_whose_pod_is_gone_is_repeated_after_a_while() -> None:
    story = Story()
    assert story.reconcile(preflight(failed=BACKOFF_LIMIT)).actions == ()
    assert story.condition("Accepted") == ("Unknown", "Checking"), "the watch may not have delivered the pod yet"
    assert story.reconcile(preflight(failed=BACKOFF_LIMIT), after=60).actions == (StartPreflight(1, 2),)


def test_a_check_is_not_repeated_for_ever() -> None:
    story = Story(job=job(retries__infrastructure=1))
    lost = preflight_pod(reason="Evicted", exit_code=137)
    assert story.reconcile(preflight(failed=BACKOFF_LIMIT), lost, after=20).actions == (StartPreflight(1, 2),)
    again = preflight(number=2, failed=BACKOFF_LIMIT)
    story.reconcile(again, renamed(lost, preflight_uid="check-1-2"))
    assert story.condition("Failed") == ("True", "CheckFailed")
    assert "Evicted" in story.message("Failed")


def test_findings_count_even_if_the_pod_was_evicted() -> None:
    story = Story()
    taken = preflight_pod(exit_code=2, exit_message=FINDINGS, disrupted="EvictionByEvictionAPI")
    story.reconcile(preflight(failed=BACKOFF_LIMIT), taken)
    assert story.condition("Accepted") == ("False", "Refused")


def test_the_pods_of_a_repeated_check_do_not_count_for_the_first() -> None:
    story = Story()
    stuck = renamed(preflight_pod(waiting_reason="ImagePullBackOff"), preflight_uid="check-1-2")
    story.reconcile(preflight(), stuck)
    assert story.condition("Accepted") == ("Unknown", "Checking")


def test_a_check_that_cannot_start_is_named_at_once_and_given_up_after_the_limit() -> None:
    story = Story(job=job(retries__infrastructure=0))
    stuck = preflight_pod(waiting_reason="ImagePullBackOff", waiting_message="no such image")
    result = story.reconcile(preflight(), stuck)
    assert story.condition("Accepted") == ("Unknown", "ImagePullBackOff")
    assert "no such image" in story.message("Accepted")
    assert result.requeue_at is not None
    assert (result.requeue_at - NOW).total_seconds() == 900
    assert story.reconcile(preflight(), stuck, after=899).actions == ()
    result = story.reconcile(preflight(), stuck, after=1)
    assert story.condition("Failed") == ("True", "ImagePullBackOff")
    assert result.actions == (DeletePreflight("small-check-1", "check-1"),)


def test_a_check_that_could_not_start_is_repeated_if_an_attempt_would_be() -> None:
    story = Story(job=job(retries__infrastructure=1))
    full = preflight_pod(unschedulable="0/3 nodes are available: 3 Insufficient cpu")
    story.reconcile(preflight(), full)
    result = story.reconcile(preflight(), full, after=900)
    assert story.reconcile(preflight(), full).actions == result.actions, "an interrupted operator repeats it"
    assert set(result.actions) == {StartPreflight(1, 2), DeletePreflight("small-check-1", "check-1")}
    assert story.condition("Failed") is None
    again = (preflight(number=2, started=story.now), renamed(full, preflight_uid="check-1-2"))
    story.reconcile(*again, after=1)
    assert story.condition("Accepted") == ("Unknown", "Unschedulable")
    story.reconcile(*again, after=899)
    assert story.condition("Failed") is None
    story.reconcile(*again, after=1)
    assert story.condition("Failed") == ("True", "Unschedulable")


def test_a_check_that_the_user_must_fix_is_not_repeated() -> None:
    story = Story()
    story.reconcile(preflight(), preflight_pod(waiting_reason="CreateContainerConfigError"))
    story.reconcile(preflight(), preflight_pod(waiting_reason="CreateContainerConfigError"), after=900)
    assert story.condition("Failed") == ("True", "CreateContainerConfigError")


def test_a_check_without_a_pod_is_named() -> None:
    """A quota rejects it, which only the events of the Job report."""
    story = Story(job=job(retries__infrastructure=0))
    result = story.reconcile(preflight())
    assert story.condition("Accepted") == ("Unknown", "Checking")
    assert result.requeue_at == NOW + timedelta(seconds=60)
    story.reconcile(preflight(), after=60)
    assert story.condition("Accepted") == ("Unknown", "Checking")
    story.reconcile(preflight(), after=60)
    assert story.condition("Accepted") == ("Unknown", "CheckHasNoPod")
    assert "kubectl describe job small-check-1" in story.message("Accepted")
    assert story.reconcile(preflight(), after=839).actions == ()
    story.reconcile(preflight(), after=1)
    assert story.condition("Failed") == ("True", "CheckHasNoPod")


def test_each_check_without_a_pod_has_its_own_timeout() -> None:
    story = Story(job=job(retries__infrastructure=2))
    for number in (1, 2):
        check = preflight(number=number, started=story.now)
        story.reconcile(check, after=60)
        assert story.reconcile(check, after=899).actions == ()
        assert StartPreflight(1, number + 1) in story.reconcile(check, after=1).actions
    assert story.condition("Failed") is None


def test_a_check_whose_pod_is_replaced_has_none_for_a_moment() -> None:
    story = Story()
    story.reconcile(preflight(), preflight_pod(phase="Running"), after=1200)
    result = story.reconcile(preflight(), after=1)
    assert (result.actions, result.events) == ((), ())
    assert story.condition("Accepted") == ("Unknown", "Checking")
    story.reconcile(preflight(), preflight_pod(phase="Running"), after=1)
    assert "checkHeldUpSince" not in story.status


@pytest.mark.parametrize("started", [None, 5000])
def test_queued_time_does_not_hold_up_a_check(started: int | None) -> None:
    story = Story()
    story.reconcile(preflight(queued=True, started=None), after=5000)
    let_in = preflight(started=None if started is None else NOW + timedelta(seconds=started))
    assert story.reconcile(let_in, after=30).actions == ()
    assert story.condition("Accepted") == ("Unknown", "Checking")


def test_a_check_that_is_held_up_after_a_long_pull_gets_the_full_timeout() -> None:
    """The kubelet of a new node may not know the Secret yet, and reports it as missing."""
    story = Story()
    story.reconcile(preflight(), preflight_pod(waiting_reason="ContainerCreating"), after=1200)
    held_up = preflight_pod(waiting_reason="CreateContainerConfigError", waiting_message="failed to sync secret cache")
    story.reconcile(preflight(), held_up, after=1)
    assert story.condition("Accepted") == ("Unknown", "CreateContainerConfigError")
    assert story.condition("Failed") is None
    story.reconcile(preflight(), preflight_pod(phase="Running"), after=30)
    assert story.condition("Accepted") == ("Unknown", "Checking")


def test_a_check_that_waits_for_kueue_is_reported_as_queued() -> None:
    story = Story()
    story.reconcile()
    held = preflight(queued=True)
    result = story.reconcile(held, after=10**6)
    assert story.condition("Accepted") == ("Unknown", "Queued")
    assert story.phase == "Queued"
    assert (result.actions, [each.warning for each in result.events]) == ((), [False])
    assert story.reconcile(preflight(), after=1).actions == ()
    assert story.condition("Accepted") == ("Unknown", "Checking")


def test_a_stuck_check_that_starts_after_all_is_followed() -> None:
    story = Story()
    story.reconcile(preflight(), preflight_pod(unschedulable="0/3 nodes are available"))
    assert story.condition("Accepted") == ("Unknown", "Unschedulable")
    story.reconcile(preflight(), preflight_pod(phase="Running"), after=100)
    assert story.condition("Accepted") == ("Unknown", "Checking")
    assert story.reconcile(preflight(succeeded=True), after=100).actions == (StartAttempt(1),)


def test_the_pods_of_another_check_are_ignored() -> None:
    story = Story()
    story.reconcile(preflight(1), preflight_pod(12, waiting_reason="ImagePullBackOff"))
    assert story.condition("Accepted") == ("Unknown", "Checking")


def test_a_job_that_this_cluster_cannot_run_is_refused_without_a_check() -> None:
    story = Story()
    result = story.reconcile(refusals=["spec.storage: is required", "spec.model: is odd"])
    assert result.actions == ()
    condition = story.condition("Accepted")
    assert condition is not None
    assert condition[0] == "False"
    assert story.message("Accepted") == "spec.storage: is required\nspec.model: is odd"
    assert story.phase == "Refused"
    assert "completionTime" not in story.status


def test_a_refusal_by_the_settings_heals_when_they_change() -> None:
    story = Story()
    story.reconcile(refusals=["spec.storage: is required"])
    assert story.reconcile().actions == (StartPreflight(1),)
    assert story.phase == "Checking"


def test_new_settings_do_not_refuse_a_job_that_was_accepted() -> None:
    story = accepted()
    story.reconcile(refusals=["spec.storage: is required"])
    assert story.condition("Accepted") == ("True", "Valid")


def test_a_job_created_suspended_is_not_checked_until_it_is_resumed() -> None:
    story = Story(job=job(suspend=True))
    assert story.reconcile().actions == ()
    assert story.phase == "Suspended"
    story.change(suspend=False)
    assert story.reconcile().actions == (StartPreflight(2),)
    assert story.condition("Suspended") == ("False", "Resumed")
    assert story.phase == "Checking"


def test_suspending_during_the_check_deletes_it_and_resuming_starts_another() -> None:
    story = Story()
    story.reconcile()
    story.change(suspend=True)
    assert story.reconcile(preflight(1)).actions == (DeletePreflight("small-check-1", "check-1"),)
    assert story.phase == "Suspended"
    story.change(suspend=False)
    assert story.reconcile().actions == (StartPreflight(3),)
