"""The verdict, by tables and by properties that always hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.report.build import build_report
from promptintern.report.facts import RunFacts
from promptintern.report.schema import Figure, Report
from promptintern.report.verdict import decide_outcome
from promptintern_api.metrics import Metric

from tests.unit.report.figures import facts, stage

EM, BLEU = Metric.EXACT_MATCH, Metric.BLEU


def figure(value: float, low: float | None = None, high: float | None = None) -> Figure:
    return Figure(
        value=value, low=value if low is None else low, high=value if high is None else high, method="made up"
    )


@pytest.mark.parametrize(
    ("metric", "full", "difference", "outcome"),
    [
        (EM, 0.9, (0.00, -0.01, 0.01), "Internalized"),
        (EM, 0.9, (0.00, -0.02, 0.02), "Internalized"),  # the bound itself is allowed
        (EM, 0.9, (0.30, 0.20, 0.40), "Internalized"),
        (EM, 0.9, (-0.01, -0.03, 0.01), "Inconclusive"),
        (EM, 0.9, (-0.03, -0.05, -0.02), "Inconclusive"),  # the upper bound equals the allowed loss
        (EM, 0.9, (-0.03, -0.05, -0.021), "NotInternalized"),
        (EM, 0.0, (0.00, 0.00, 0.02), "Inconclusive"),  # nothing to lose
        (EM, 0.02, (-0.01, -0.02, 0.01), "Inconclusive"),
        (EM, 0.01, (0.20, 0.15, 0.25), "Internalized"),  # nothing to lose, but the result is better
        (BLEU, 60.0, (-1.0, -1.9, 0.5), "Internalized"),  # 2 of 100 points are allowed
        (BLEU, 60.0, (-1.0, -2.5, 0.5), "Inconclusive"),
        (BLEU, 60.0, (-5.0, -7.0, -3.0), "NotInternalized"),
        (BLEU, 1.5, (0.0, -0.1, 0.1), "Inconclusive"),
    ],
)
def test_the_interval_decides(
    metric: Metric, full: float, difference: tuple[float, float, float], outcome: str
) -> None:
    assert decide_outcome(metric=metric, full=figure(full), difference=figure(*difference), max_drop=0.02) == outcome


@given(st.floats(0.1, 1), st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.09))
@settings(max_examples=60)
def test_a_larger_allowance_never_worsens_the_outcome(
    full: float, value: float, down: float, up: float, max_drop: float
) -> None:
    order = ["NotInternalized", "Inconclusive", "Internalized"]
    difference = figure(value, value - down, value + up)
    strict = decide_outcome(metric=EM, full=figure(full), difference=difference, max_drop=max_drop)
    loose = decide_outcome(metric=EM, full=figure(full), difference=difference, max_drop=max_drop + 0.009)
    assert order.index(loose) >= order.index(strict)


def report(run: RunFacts) -> Report:
    return build_report(run)


def test_internalized() -> None:
    verdict = report(facts(rows=400)).verdict
    assert verdict.outcome == "Internalized"
    assert verdict.headline == (
        "The query alone is now enough: it reaches 97.0 % exact match, against 96.5 % with the full prompt, "
        "with 93 % fewer prompt tokens."
    )
    assert verdict.reasons[0].startswith(
        "On the same 400 held-out rows, QueryOnly minus FullPrompt is +0.5 points (95 % "
    )


def test_better_than_the_full_prompt() -> None:
    verdict = report(facts(full=0.8, result=0.99)).verdict
    assert verdict.outcome == "Internalized"
    assert verdict.headline.startswith(
        "The query alone now does better than the full prompt: it reaches 99.0 % exact match"
    )


def test_not_internalized() -> None:
    verdict = report(facts(result=0.4)).verdict
    assert verdict.outcome == "NotInternalized"
    assert "The loss is 56.5 points, and the job allows 5 points" in verdict.headline


def test_too_few_rows() -> None:
    run_report = report(facts(rows=60, result=0.94))
    assert run_report.verdict.outcome == "Inconclusive"
    assert "60 held-out rows are too few to show whether the loss stays within 5 points" in run_report.verdict.headline
    assert "held-out rows would settle it" in run_report.verdict.reasons[-1]
    assert any("only 60 held-out rows" in warning for warning in run_report.warnings)


def test_the_advised_number_of_rows_settles_it() -> None:
    reasons = report(facts(rows=60, result=0.94)).verdict.reasons
    advised = int(reasons[-1].split("about ")[1].split(" held-out")[0].replace(",", ""))
    # The share of differing rows is the same at any number of rows; so is the difference.
    settled = report(facts(rows=advised, full=58 / 60, result=56 / 60)).verdict.outcome
    assert settled == "Internalized"


def test_a_full_prompt_that_always_fails_is_inconclusive() -> None:
    run_report = report(facts(full=0.0, result=0.0, direct=0.0))
    assert run_report.verdict.outcome == "Inconclusive"
    assert run_report.verdict.headline.startswith(
        "The comparison shows nothing: the full prompt itself reaches 0.0 % exact match"
    )
    assert any("hardly ever answers correctly, even with the full prompt" in warning for warning in run_report.warnings)


def test_stopped_by_the_gate_keeps_a_stage() -> None:
    stages = [stage(0, score=0.96), stage(1, score=0.95), stage(2, score=0.61, gate="failed")]
    run_report = report(facts(stopped_at=2, kept=1, result=0.955, stages=stages))
    assert run_report.verdict.outcome == "StoppedByGate"
    assert run_report.verdict.arm == "KeptStage"
    assert run_report.verdict.headline == (
        "The gate stopped training at stage 3 of 4, and the adapter of stage 2 is kept. This adapter still needs 65 % "
        "of the template and 2 examples, and reaches 95.5 % exact match, with 48 % fewer prompt tokens."
    )
    assert run_report.verdict.reasons[0].startswith(
        "Stage 3 reached 61.0 % exact match with its own prompt, against 96.5 %"
    )


def test_stopped_by_the_gate_at_the_first_stage_leaves_no_adapter() -> None:
    run_report = report(facts(stopped_at=0, kept=None, result=None, stages=[stage(0, score=0.5, gate="failed")]))
    assert run_report.verdict.outcome == "StoppedByGate"
    assert run_report.verdict.arm is None
    assert run_report.verdict.headline.endswith(
        "no stage came close enough to the full prompt, so there is no adapter."
    )
    assert run_report.savings is None
    assert run_report.examples.gained == run_report.examples.lost == []


def test_a_schedule_that_keeps_some_template_does_not_claim_the_query_alone() -> None:
    last = stage(3).model_copy(update={"requested_rate": 0.1, "achieved_rate": 0.12})
    headline = report(facts(rows=400, stages=[stage(0), stage(1), stage(2), last])).verdict.headline
    assert headline.startswith("The query with 12 % of the template is now enough: ")


def test_bleu_as_the_first_metric_is_the_score() -> None:
    run_report = report(facts(metrics=[BLEU, EM], result=0.4))
    assert run_report.verdict.metric is BLEU
    assert "BLEU" in run_report.verdict.headline
    assert "exact match" not in run_report.verdict.headline
    assert run_report.verdict.outcome == "NotInternalized"
