"""The metrics of jobs by namespace: they begin at 0, count each end once, and have a bounded number of series."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import REGISTRY
from promptintern_api import PromptInternJob
from promptintern_api.status import Outcome, Phase, PromptInternJobStatus
from promptintern_api.training_status import TrainingStatus
from promptintern_operator.job_metrics import FORGET_SECONDS, MOST_NAMESPACES, OTHER_NAMESPACES, JobMetrics
from promptintern_operator.plan import Denial, Plan, StartAttempt
from promptintern_operator.reasons import DENIAL_REASONS, ENDING_REASONS, OTHER_REASON

from tests.unit.operator.builders import job

NAMESPACE = "metrics-team"
ENDED = {"number": 1, "rayJobName": "small-a1", "outcome": "Application"}
FAILED = Plan(
    status={"attempts": [ENDED], "completionTime": "2026-01-01T00:00:00Z", "reason": "RetriesExhausted"},
    attempt_ending="OutOfMemory",
)


def counted_job(**spec: Any) -> PromptInternJob:
    """Return a job in a namespace that no other test counts."""
    made = job(**spec)
    return made.model_copy(update={"metadata": made.metadata.model_copy(update={"namespace": NAMESPACE})})


@pytest.fixture
def metrics() -> Iterator[JobMetrics]:
    """Provide a set of series that is dropped afterwards."""
    metrics = JobMetrics()
    yield metrics
    metrics.update({}, now=float("inf"))


def value(name: str, **labels: str) -> float | None:
    """Return the value of a series of ``NAMESPACE``, or None if there is no such series."""
    return REGISTRY.get_sample_value(f"promptintern_{name}", {"namespace": NAMESPACE, **labels})


def failures(reason: str) -> float:
    """Return the number of attempts that failed for ``reason``."""
    return REGISTRY.get_sample_value("promptintern_attempt_failures_total", {"reason": reason}) or 0.0


def series() -> set[str]:
    """Return all values of the label ``namespace``."""
    return {
        sample.labels["namespace"]
        for family in REGISTRY.collect()
        for sample in family.samples
        if "namespace" in sample.labels
    }


def test_the_series_of_a_namespace_begin_at_0(metrics: JobMetrics) -> None:
    metrics.begin(NAMESPACE)
    assert [value("jobs", phase=phase) for phase in Phase] == [0] * len(Phase)
    assert [value("attempts_ended_total", outcome=outcome) for outcome in Outcome] == [0] * len(Outcome)
    assert [value("jobs_ended_total", reason=reason) for reason in ENDING_REASONS] == [0] * len(ENDING_REASONS)
    assert [value("denials_total", reason=reason) for reason in DENIAL_REASONS] == [0] * len(DENIAL_REASONS)


@pytest.mark.parametrize(
    ("name", "label", "known"),
    [
        ("reconciles_total", "result", ["done", "denied", "outdated", "unreadable", "failed"]),
        ("attempt_failures_total", "reason", ["OutOfMemory", "Unschedulable", "AppFailed", OTHER_REASON]),
        ("skipped_objects_total", "kind", ["promptinternjobs", "rayjobs", "pods", "jobs", "workloads"]),
    ],
)
def test_other_counters_exist_before_their_first_increase(name: str, label: str, known: list[str]) -> None:
    assert all(REGISTRY.get_sample_value(f"promptintern_{name}", {label: each}) is not None for each in known)


def test_the_end_of_an_attempt_and_of_its_job_is_counted_once(metrics: JobMetrics) -> None:
    before = failures("OutOfMemory")
    metrics.count_changes({}, FAILED, counted_job())
    metrics.count_changes(FAILED.status, replace(FAILED, attempt_ending=None), counted_job())
    assert value("attempts_ended_total", outcome="Application") == 1
    assert value("jobs_ended_total", reason="RetriesExhausted") == 1
    assert failures("OutOfMemory") == before + 1


@pytest.mark.parametrize("outcome", ["Succeeded", "Suspended"])
def test_an_attempt_that_succeeds_or_is_suspended_is_no_failure(metrics: JobMetrics, outcome: str) -> None:
    before = failures(OTHER_REASON)
    plan = Plan(status={"attempts": [ENDED | {"outcome": outcome}]}, attempt_ending=outcome)
    metrics.count_changes({}, plan, counted_job())
    assert value("attempts_ended_total", outcome=outcome) == 1
    assert failures(OTHER_REASON) == before


def test_a_reason_that_a_tenant_invented_becomes_no_label(metrics: JobMetrics) -> None:
    before = failures(OTHER_REASON)
    invented = Plan(status={**FAILED.status, "reason": "Invented"}, attempt_ending="Invented")
    metrics.count_changes({}, invented, counted_job())
    denial = Denial(
        action=StartAttempt(1), reason="Invented", message="", since=datetime.now(UTC), at=datetime.now(UTC), times=1
    )
    metrics.count_denial(NAMESPACE, denial)
    assert failures(OTHER_REASON) == before + 1
    assert value("jobs_ended_total", reason=OTHER_REASON) == 1
    assert value("denials_total", reason=OTHER_REASON) == 1
    labels = {text for family in REGISTRY.collect() for sample in family.samples for text in sample.labels.values()}
    assert "Invented" not in labels


def stage(index: int, seconds: float = 20) -> dict[str, Any]:
    """Return a finished stage of a head pod's report."""
    return {"index": index, "rate": 1, "shots": 1, "promptTokens": 1, "seconds": seconds}


def observed(index: int) -> tuple[float, float]:
    """Return the number of observed durations of a stage, and their sum."""
    labels = {"stage": str(index)}
    count, total = (
        REGISTRY.get_sample_value(f"promptintern_stage_seconds_{what}", labels) or 0.0 for what in ("count", "sum")
    )
    return count, total


def test_a_head_pod_cannot_disturb_the_durations_of_stages(metrics: JobMetrics) -> None:
    """It may report stages that the job does not have, and times that no attempt took."""
    reported = counted_job(schedule__stages=2)
    training = TrainingStatus.model_validate({"stages": [stage(0, 20), stage(1, 1e9), stage(63)]})
    reported = reported.model_copy(update={"status": PromptInternJobStatus(training=training)})
    attempt = {"number": 1, "rayJobName": "small-a1", "outcome": "Succeeded", "activeSeconds": 100.0}
    status = {"attempts": [attempt], "completionTime": "2026-01-01T00:00:00Z", "phase": "Succeeded"}
    before = [observed(index) for index in (0, 1, 63)]
    metrics.count_changes({}, Plan(status=status, attempt_ending="Succeeded"), reported)
    (count_0, sum_0), (count_1, sum_1), outside = before
    assert [observed(index) for index in (0, 1, 63)] == [(count_0 + 1, sum_0 + 20), (count_1 + 1, sum_1 + 100), outside]


def test_jobs_are_counted_by_namespace_and_phase(metrics: JobMetrics) -> None:
    metrics.update({(NAMESPACE, "Training"): 2, (NAMESPACE, "Refused"): 1})
    assert (value("jobs", phase="Training"), value("jobs", phase="Refused")) == (2, 1)
    metrics.update({(NAMESPACE, "Refused"): 1})
    assert (value("jobs", phase="Training"), value("jobs", phase="Refused")) == (0, 1)


def test_more_namespaces_than_the_bound_share_their_series(metrics: JobMetrics) -> None:
    metrics.update({(f"metrics-{n}", "Training"): 1 for n in range(MOST_NAMESPACES + 50)}, now=0)
    assert len({name for name in series() if name.startswith("metrics-")}) == MOST_NAMESPACES
    others = {"namespace": OTHER_NAMESPACES, "phase": "Training"}
    assert REGISTRY.get_sample_value("promptintern_jobs", others) == 50


def test_the_series_of_a_namespace_end_an_hour_after_its_last_job(metrics: JobMetrics) -> None:
    metrics.update({(NAMESPACE, "Succeeded"): 1}, now=0)
    metrics.update({}, now=FORGET_SECONDS)
    assert value("jobs", phase="Succeeded") == 0
    assert NAMESPACE in series(), "Prometheus still has to read the last increase of its counters"
    metrics.update({}, now=FORGET_SECONDS + 1)
    assert NAMESPACE not in series()
