"""A refused or failed job is checked or started again if a user asks for it."""

from datetime import timedelta
from typing import Any

import pytest
from promptintern_api.contract import ANNOTATION_RETRY, RETRY_CHARACTERS
from promptintern_operator.plan import Denial, StartAttempt, StartPreflight

from tests.unit.operator.builders import Story, crashed, failed, job, preflight, preflight_pod, ray_job, running

BACKOFF_LIMIT = "Job has reached the specified backoff limit"
FINDINGS = '[{"where": "spec.storage.secretRef", "message": "the storage refused the credentials"}]'


def ask(story: Story, value: str = "once") -> None:
    """Set the annotation, which changes no generation."""
    metadata = story.job.metadata.model_copy(update={"annotations": {ANNOTATION_RETRY: value}})
    story.job = story.job.model_copy(update={"metadata": metadata})


def refused(**spec: Any) -> Story:
    story = Story(job=job(**spec))
    story.reconcile(preflight(failed=BACKOFF_LIMIT), preflight_pod(exit_code=2, exit_message=FINDINGS))
    assert story.condition("Accepted") == ("False", "Refused")
    return story


def exhausted(**spec: Any) -> Story:
    """Return a job whose only allowed attempt failed."""
    story = running(retries={"application": 0}, **spec)
    story.reconcile(crashed())
    assert story.condition("Failed") == ("True", "RetriesExhausted")
    return story


def test_a_refused_job_is_checked_again_once_for_each_request() -> None:
    story = refused()
    old = preflight(failed=BACKOFF_LIMIT), preflight_pod(exit_code=2, exit_message=FINDINGS)
    assert story.reconcile(*old).actions == ()
    ask(story)
    assert story.reconcile(*old).actions == (StartPreflight(1, 2),)
    assert story.phase == "Checking"
    assert story.status["handledRetry"] == "once"
    assert story.reconcile(*old).actions == (StartPreflight(1, 2),), "the operator may have been interrupted"
    again = (
        preflight(number=2, failed=BACKOFF_LIMIT),
        preflight_pod(exit_code=2, exit_message=FINDINGS, preflight_uid="check-1-2"),
    )
    story.reconcile(*old, *again)
    assert story.condition("Accepted") == ("False", "Refused")
    ask(story, "twice")
    assert story.reconcile(*again).actions == (StartPreflight(1, 3),)
    story.reconcile(preflight(number=3, succeeded=True))
    assert story.condition("Accepted") == ("True", "Valid")
    assert story.attempt["number"] == 1


def test_the_checks_of_a_retry_have_their_own_budget() -> None:
    story = refused(retries={"infrastructure": 1})
    ask(story)
    story.reconcile(preflight(failed=BACKOFF_LIMIT))
    lost = (
        preflight(number=2, failed=BACKOFF_LIMIT),
        preflight_pod(reason="Evicted", exit_code=137, preflight_uid="check-1-2"),
    )
    assert story.reconcile(*lost, after=20).actions == (StartPreflight(1, 3),)


def test_a_failed_job_gets_another_attempt_at_once_and_new_budgets() -> None:
    story = exhausted()
    ask(story)
    result = story.reconcile(crashed())
    assert StartAttempt(2) in result.actions
    assert story.phase == "Starting"
    assert "completionTime" not in story.status
    assert story.condition("Failed") == ("False", "Retried")
    assert story.condition("Succeeded") is None
    assert [record.reason for record in result.events if record.reason == "Retried"] == ["Retried"]
    story.reconcile(crashed(2))
    assert story.condition("Failed") == ("True", "RetriesExhausted"), "the new budget allows one attempt again"
    assert len(story.attempts) == 2


def test_a_refused_attempt_is_tried_again_too() -> None:
    story = running()
    story.reconcile(failed(1, "Job failed with exit code 2, logs:\nno"))
    assert story.condition("Failed") == ("True", "Refused")
    ask(story)
    assert StartAttempt(2) in story.reconcile(crashed()).actions


def test_a_job_that_failed_before_it_was_accepted_is_checked_again() -> None:
    story = Story()
    oom = preflight_pod(exit_code=137, exit_reason="OOMKilled")
    story.reconcile(preflight(failed=BACKOFF_LIMIT), oom)
    assert story.condition("Failed") == ("True", "CheckFailed")
    ask(story)
    assert StartPreflight(1, 2) in story.reconcile(preflight(failed=BACKOFF_LIMIT), oom).actions
    assert story.phase == "Checking"


def test_a_deadline_that_has_passed_must_be_raised_first() -> None:
    story = running(activeDeadlineSeconds=100)
    story.reconcile(*(), after=101)
    assert story.condition("Failed") == ("True", "DeadlineExceeded")
    ask(story)
    story.reconcile()
    assert story.condition("Failed") == ("True", "DeadlineExceeded")
    story.change(activeDeadlineSeconds=1000)
    ask(story, "after the field was raised")
    assert StartAttempt(2) in story.reconcile().actions


@pytest.mark.parametrize("phase", ["Succeeded", "Training", "new"])
def test_there_is_nothing_to_try_again(phase: str) -> None:
    story = Story() if phase == "new" else running()
    if phase == "Succeeded":
        story.reconcile(ray_job(deployment="Complete", job_status="SUCCEEDED"))
    before = dict(story.status)
    ask(story, "x" * 1000)
    story.reconcile()
    assert story.status["handledRetry"] == "x" * RETRY_CHARACTERS
    assert story.status.get("completionTime") == before.get("completionTime")
    assert len(story.attempts) == len(before.get("attempts", []))


def test_very_many_retries_keep_the_status_small() -> None:
    story = exhausted()
    for number in range(2, 400):
        ask(story, str(number))
        story.reconcile()
        story.reconcile(crashed(number))
    assert len(story.attempts) <= 320
    assert story.attempt["number"] == 399


def test_a_denied_check_can_be_requested_again() -> None:
    """The quota that denied it was raised after the job had given up."""
    story = Story()
    story.reconcile()
    denial = Denial(
        action=StartPreflight(1, 1),
        reason="QuotaExceeded",
        message="exceeded quota",
        since=story.now,
        at=story.now + timedelta(hours=1),
        times=9,
    )
    story.reconcile(denial, after=3600)
    assert story.condition("Failed") == ("True", "QuotaExceeded")
    ask(story)
    assert story.reconcile(denial, after=3600).actions == (StartPreflight(1, 2),)
    assert story.phase == "Checking"
