"""Which conditions are shown, and what a watch prints in a log."""

from datetime import timedelta
from typing import Any

import pytest
from promptintern.cluster import messages

from tests.unit.cluster_cli.documents import NOW, condition, stored, training

ACCEPTED = condition("Accepted", "True", "Valid", "fine")
READY = condition("ClusterReady", "True", "Ready", "up")
STARTING = condition("Training", "False", "Starting", "attempt 1 starts")


@pytest.mark.parametrize(
    ("phase", "conditions", "expected"),
    [
        ("Pending", [], []),
        ("Checking", [condition("Accepted", "Unknown", "Checking", "looking")], ["being checked (Checking): looking"]),
        (
            "Checking",
            [condition("Accepted", "Unknown", "ImagePullBackOff", "pod x: no such image")],
            ["being checked (ImagePullBackOff): pod x: no such image"],
        ),
        (
            "Refused",
            [condition("Accepted", "False", "Refused", "a: is bad\nb: is worse")],
            ["refused:\n  a: is bad\n  b: is worse"],
        ),
        (
            "Queued",
            [ACCEPTED, condition("QuotaReserved", "False", "Pending", "queue q: full"), STARTING],
            ["waiting for quota (Pending): queue q: full"],
        ),
        (
            "Starting",
            [ACCEPTED, condition("ClusterReady", "False", "Unschedulable", "0/3 nodes have nvidia.com/gpu"), STARTING],
            ["the Ray cluster is not ready (Unschedulable): 0/3 nodes have nvidia.com/gpu"],
        ),
        ("Training", [ACCEPTED, READY, condition("Training", "True", "Running", "a1")], ["training (Running): a1"]),
        (
            "Training",
            [ACCEPTED, READY, condition("Suspended", "False", "Saving", "the trainer is asked to save")],
            ["being suspended (Saving): the trainer is asked to save"],
        ),
        (
            "Suspended",
            [
                ACCEPTED,
                condition("Suspended", "True", "Suspended", "spec.suspend is true"),
                condition("ClusterReady", "False", "Suspended", "none"),
            ],
            ["suspended: spec.suspend is true"],
        ),
        (
            "Training",
            [
                ACCEPTED,
                READY,
                condition("Suspended", "False", "Resumed", "x"),
                condition("Training", "True", "Running", "a"),
            ],
            ["training (Running): a"],
        ),
        (
            "Succeeded",
            [ACCEPTED, condition("Succeeded", "True", "Succeeded", "attempt 1: done"), STARTING],
            ["succeeded: attempt 1: done"],
        ),
        (
            "Failed",
            [
                condition("Failed", "True", "RetriesExhausted", "boom"),
                condition("Succeeded", "False", "RetriesExhausted", "boom"),
                condition("ClusterReady", "False", "Ended", "over"),
            ],
            ["failed (RetriesExhausted): boom"],
        ),
        (
            "Training",
            [condition("Novelty", "True", "New", "of a newer operator")],
            ["Novelty is True (New): of a newer operator"],
        ),
    ],
)
def test_relevant_conditions(phase: str, conditions: list[dict[str, Any]], expected: list[str]) -> None:
    job = stored(phase=phase, conditions=conditions)
    assert [messages.condition_message(each) for each in messages.relevant_conditions(job)] == expected


def test_one_line_per_change() -> None:
    before, after = stored(phase="Checking"), training()
    lines = messages.changes(before, after)
    assert lines[0] == "Training, stage 2/4"
    assert "attempt 1 ended (Infrastructure): node worker-7 went away [31m" in lines
    assert "stage 1 done: 1234.5 prompt tokens per query, loss 0.5123, score 0.875" in lines
    assert "stage 2: template rate 0.67, 3 examples, 800.2 prompt tokens per query" in lines
    assert messages.changes(after, after) == []
    assert messages.changes(None, stored()) == []


def test_progress_line() -> None:
    assert messages.progress_line(training()) == "stage 2: step 30/120 (25 %), 12,346 tokens/s, 1 h 30 min left"
    assert messages.progress_line(stored()) is None


def test_progress_line_of_queries_that_are_being_answered() -> None:
    answering = {"name": "teacher\n\x1b[31m", "answered": 512, "total": 1000}
    job = stored(phase="Training", training={"answering": answering})
    assert messages.progress_line(job) == "teacher [31m: answered 512 of 1,000"


@pytest.mark.parametrize(
    ("seconds", "elapsed", "age"),
    [
        (0, "0.0 s", "0s"),
        (-5, "0.0 s", "0s"),
        (59, "59 s", "59s"),
        (60, "1 min", "1m"),
        (3720, "1 h 2 min", "1h"),
        (90_000, "25 h", "1d"),
    ],
)
def test_times(seconds: float, elapsed: str, age: str) -> None:
    start = NOW - timedelta(seconds=seconds)
    assert messages.elapsed(start, NOW) == elapsed
    assert messages.age(start, NOW) == age


def test_an_operator_that_is_silent() -> None:
    assert "no operator has observed" in str(messages.waiting_for_operator(stored(observedGeneration=0), NOW))
    assert messages.waiting_for_operator(stored(phase="Training"), NOW) is None


def test_a_status_of_another_version() -> None:
    """Parts that cannot be read are left out; the rest stays."""
    job = stored(
        phase="Training",
        novelty={"a": 1},
        stage="1/2",
        conditions=[condition("Training", "True", "Running", "x") | {"since": 3}],
        attempts=[{"number": 1, "rayJobName": "a", "headPods": 1, "outcome": "Unheard", "pods": [{"name": 3}]}],
        training={"stages": []},
    )
    assert job.status.stage == "1/2"
    assert [each.type for each in job.status.conditions] == ["Training"]
    assert stored(phase="Unheard", stage="1/2").status.stage == "1/2"
