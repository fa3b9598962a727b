"""A cluster that removes pods again and again: attempts with progress are free, and attempts without end the job."""

from typing import Any

import pytest
from promptintern_operator.plan import StartAttempt
from promptintern_operator.views import PodView

from tests.unit.operator.builders import HEAD, WORKER, Story, accepted, failed, preflight_pod, ray_job, renamed, running
from tests.unit.operator.builders import preflight as check

STAGE = {"rate": 1.0, "shots": 2, "promptTokens": 50.0}
EVICTED = "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 600Mi."


def progress(*, done: int, step: int) -> dict[str, Any]:
    """Return the trainer's part of the status after ``done`` committed stages and ``step`` steps of the next one."""
    stages = [STAGE | {"index": index, "finishedAt": "2026-01-02T04:00:00Z"} for index in range(done)]
    return {"stages": [*stages, STAGE | {"index": done}], "progress": {"step": step, "total": 100}}


def preempt(story: Story, number: int, **changes: Any) -> None:
    """End attempt ``number`` by the removal of its head pod, and start the next attempt if one may start."""
    taken = renamed(HEAD, cluster=f"cluster-{number}", **({"disrupted": "EvictionByEvictionAPI"} | changes))
    story.reconcile(failed(number), taken)
    assert story.attempt["outcome"] == "Preemption"
    if StartAttempt(number + 1) in story.reconcile(failed(number), after=100).actions:
        story.reconcile(ray_job(number + 1))


def test_preemptions_in_a_row_without_progress_end_the_job() -> None:
    story = running(retries__preemption=2)
    story.training = progress(done=1, step=40)
    preempt(story, 1)
    for number in (2, 3):
        assert story.condition("Failed") is None
        preempt(story, number)
    assert story.condition("Failed") is None
    preempt(story, 4)
    assert story.condition("Failed") == ("True", "RetriesExhausted")
    assert "spec.retries.preemption" in story.message("Failed")
    assert (story.attempt["stagesDone"], story.attempt["step"]) == (1, 40)


def test_an_attempt_that_got_further_begins_the_count_again() -> None:
    story = running(retries__preemption=1)
    for number in range(1, 40):
        story.training = progress(done=number // 10, step=number % 10)
        preempt(story, number)
        assert story.condition("Failed") is None


def test_steps_that_are_repeated_after_a_hard_kill_are_no_progress() -> None:
    story = running(retries__preemption=1)
    story.training = progress(done=0, step=50)
    preempt(story, 1)
    for number, step in ((2, 20), (3, 50)):
        assert story.condition("Failed") is None
        story.training = progress(done=0, step=step)
        preempt(story, number)
    assert story.condition("Failed") == ("True", "RetriesExhausted")
    assert story.attempt["step"] == 50


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
