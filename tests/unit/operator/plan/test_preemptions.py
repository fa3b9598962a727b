"""A cluster that removes pods again and again: long attempts are free, and short attempts without end end the job."""

from typing import Any

import pytest
from promptintern_operator.plan import StartAttempt
from promptintern_operator.views import PodView

from tests.unit.operator.builders import HEAD, WORKER, Story, accepted, failed, preflight_pod, ray_job, renamed, running
from tests.unit.operator.builders import preflight as check

EVICTED = "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 600Mi."
SAVED = 300
"""The default of spec.checkpoint.everySeconds."""


def preempt(story: Story, number: int, *, after: float = 1, **changes: Any) -> None:
    """End attempt ``number``, whose trainer ran for ``after`` seconds, and start the next attempt if one may start."""
    taken = renamed(HEAD, cluster=f"cluster-{number}", **({"disrupted": "EvictionByEvictionAPI"} | changes))
    story.reconcile(ray_job(number, job_status="RUNNING"), renamed(HEAD, cluster=f"cluster-{number}"))
    story.reconcile(failed(number), taken, after=after)
    assert story.attempt["outcome"] == "Preemption"
    if StartAttempt(number + 1) in story.reconcile(failed(number), after=100).actions:
        story.reconcile(ray_job(number + 1))


def test_short_attempts_in_a_row_end_the_job() -> None:
    story = running(retries__preemption=2)
    for number in (1, 2, 3):
        assert story.condition("Failed") is None
        preempt(story, number)
    assert story.condition("Failed") == ("True", "RetriesExhausted")
    assert "spec.retries.preemption" in story.message("Failed")
    assert f"{SAVED} s (spec.checkpoint.everySeconds)" in story.message("Failed")
    assert story.attempt["trainedSeconds"] == 1


def test_an_attempt_that_has_saved_begins_the_count_again() -> None:
    story = running(retries__preemption=1)
    for number in range(1, 40):
        preempt(story, number, after=SAVED if number % 2 else 1)
        assert story.condition("Failed") is None


def test_the_time_before_the_trainer_runs_does_not_count() -> None:
    story = running(retries__preemption=0)
    preempt(story, 1, after=SAVED)
    assert story.condition("Failed") is None
    story.reconcile(ray_job(2, "Initializing"), after=10 * SAVED)
    story.reconcile(failed(2), renamed(HEAD, cluster="cluster-2", disrupted="EvictionByEvictionAPI"))
    assert story.attempt["trainedSeconds"] == 0
    story.reconcile(failed(2))
    assert story.condition("Failed") == ("True", "RetriesExhausted")


def test_attempts_of_an_older_operator_are_not_counted() -> None:
    story = running(retries__preemption=1)
    preempt(story, 1)
    old = [{name: value for name, value in story.attempts[0].items() if name != "trainedSeconds"}] * 30
    story.status = story.status | {"attempts": [*old, *story.attempts[1:]]}
    preempt(story, 2)
    assert story.condition("Failed") is None


def test_a_failure_between_two_preemptions_begins_the_count_again() -> None:
    story = running(retries={"preemption": 1, "infrastructure": 100})
    preempt(story, 1)
    story.reconcile(failed(2, "the actor died"))
    story.reconcile(failed(2, "the actor died"), after=100)
    story.reconcile(ray_job(3))
    preempt(story, 3)
    assert story.condition("Failed") is None
    preempt(story, 4)
    assert story.condition("Failed") == ("True", "RetriesExhausted")


def test_no_preemption_may_be_followed_by_another_attempt_if_none_is_allowed() -> None:
    story = running(retries__preemption=0)
    preempt(story, 1)
    assert story.condition("Failed") == ("True", "RetriesExhausted")


@pytest.mark.parametrize(
    ("pod", "outcome"),
    [
        (renamed(WORKER, reason="Evicted", message=EVICTED), "Infrastructure"),
        (renamed(WORKER, reason="Evicted", message=EVICTED, disrupted="TerminationByKubelet"), "Infrastructure"),
        (renamed(HEAD, disrupted="EvictionByEvictionAPI", message=EVICTED), "Preemption"),
    ],
)
def test_the_explanation_of_a_removal_is_reported(pod: PodView, outcome: str) -> None:
    story = running()
    story.reconcile(failed(), pod)
    assert story.attempt["outcome"] == outcome
    assert EVICTED in story.attempt["message"]
    assert story.attempt["message"].count(pod.name) == 1


def test_the_explanation_of_the_removal_of_a_check_is_reported() -> None:
    story = Story(job=accepted(retries__infrastructure=1).job)
    lost = preflight_pod(reason="Evicted", message=EVICTED, exit_code=137)
    story.reconcile(check(failed="the pod is gone"), lost)
    assert story.condition("Accepted") == ("Unknown", "CheckLost")
    assert EVICTED in story.message("Accepted")
