"""The verdict of a run that succeeded, as a condition and in the columns of `kubectl get`."""

from typing import Any

import pytest

from tests.unit.operator.builders import CLUSTER, HEAD, Story, crashed, job, ray_job, running, waiting_pod

STAGE = {"index": 0, "rate": 0.0, "shots": 0, "promptTokens": 13.04, "score": 0.99}
RESULT = {
    "verdict": "Internalized",
    "headline": "The query alone is now enough.",
    "metric": "ExactMatch",
    "score": 0.9812,
    "scoreLow": 0.9641,
    "scoreHigh": 0.9902,
    "fullPromptScore": 0.99,
    "rows": 500,
    "tokensBefore": 257.04,
    "tokensAfter": 13.04,
}
DONE = ray_job(deployment="Complete", job_status="SUCCEEDED")


def ended(**result: Any) -> Story:
    story = running()
    story.training = {"term": 1, "stages": [STAGE], "result": {**RESULT, **result}}
    story.reconcile(DONE, HEAD)
    assert story.phase == "Succeeded"
    return story


@pytest.mark.parametrize(
    ("verdict", "status"),
    [("Internalized", "True"), ("NotInternalized", "False"), ("StoppedByGate", "False"), ("Inconclusive", "Unknown")],
)
def test_the_verdict_is_a_condition(verdict: str, status: str) -> None:
    story = ended(verdict=verdict)
    assert story.condition("Internalized") == (status, verdict)
    assert story.message("Internalized") == "The query alone is now enough."
    assert story.status["verdict"] == verdict


def test_the_columns_show_the_result_on_all_rows_and_not_the_last_stage() -> None:
    status = ended().status
    assert status["score"] == "0.981 [0.964, 0.990]"
    assert (status["tokensBefore"], status["tokens"]) == (257.0, 13.0)


def test_a_result_without_a_stage_that_passed_the_gate_has_no_score() -> None:
    nothing = dict.fromkeys(("score", "scoreLow", "scoreHigh", "tokensAfter"))
    status = ended(verdict="StoppedByGate", **nothing).status
    assert (status["score"], status["tokens"], status["tokensBefore"]) == ("0.990", 13.0, 257.0)


def test_a_job_that_has_not_succeeded_has_no_verdict() -> None:
    """The head pod runs a tenant's code, so its result counts only together with the end of the RayJob."""
    story = running(retries={"application": 0})
    story.training = {"term": 1, "stages": [STAGE], "result": RESULT}
    story.reconcile(*CLUSTER)
    assert story.condition("Internalized") is None
    story.reconcile(crashed())
    assert story.condition("Failed") == ("True", "RetriesExhausted")
    assert story.condition("Internalized") is None


def test_the_reason_says_what_holds_the_job_up_or_how_it_ended() -> None:
    story = Story(job=job(retries={"application": 0}))
    story.reconcile()
    assert story.status["reason"] == "Checking"
    story = running(retries={"application": 0})
    assert story.status["reason"] == "Running"
    stuck = waiting_pod(reason="ImagePullBackOff", message="no such image")
    story.reconcile(ray_job(deployment="Initializing"), stuck)
    assert story.status["reason"] == "ImagePullBackOff"
    story.reconcile(crashed())
    assert story.status["reason"] == "RetriesExhausted"
    assert ended().status["reason"] == "Succeeded"
    assert ended().status["verdict"] == "Internalized"
