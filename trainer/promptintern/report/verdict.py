"""Decides whether the query alone is enough, and explains the verdict without requiring knowledge of statistics."""

from promptintern_api.evaluation import Reference
from promptintern_api.metrics import Metric
from promptintern_api.training_status import VerdictOutcome

from promptintern.report import formatting
from promptintern.report.facts import FULL_PROMPT, GateFacts
from promptintern.report.schema import ArmReport, Figure, Savings, Verdict
from promptintern.stage_record import StageRecord

TOLERANCE = 1e-9
"""The tolerance for rounding errors when scores are compared. It is far below the weight of a single row."""
_MAX_ADVISED_ROWS = 1_000_000


def decide_outcome(*, metric: Metric, full: Figure, difference: Figure, max_drop: float) -> VerdictOutcome:
    """Return the outcome that follows from the interval of ``difference``.

    The outcome is NotInternalized if the whole interval shows a larger loss than ``max_drop``, Internalized if no part
    of the interval does, and Inconclusive otherwise.

    If FullPrompt's own score is at most ``max_drop``, even a model that gets every row wrong could count as
    Internalized. In this case, the outcome is Inconclusive instead, unless the whole interval lies above 0.

    Args:
        full: The score of FullPrompt.
        difference: The score of the result minus the score of FullPrompt, on the same rows.
        max_drop: The allowed loss, as a share of the metric's range.
    """
    allowed = -max_drop * metric.largest
    if difference.high < allowed - TOLERANCE:
        return VerdictOutcome.NOT_INTERNALIZED
    if is_full_prompt_too_weak(metric=metric, full=full, max_drop=max_drop) and difference.low <= 0:
        return VerdictOutcome.INCONCLUSIVE
    return VerdictOutcome.INTERNALIZED if difference.low >= allowed - TOLERANCE else VerdictOutcome.INCONCLUSIVE


def is_full_prompt_too_weak(*, metric: Metric, full: Figure, max_drop: float) -> bool:
    """Return whether FullPrompt scores so low that a score of 0 would be within the allowed loss ``max_drop``."""
    return full.value <= max_drop * metric.largest + TOLERANCE


def build_verdict(
    *,
    metric: Metric,
    full: ArmReport,
    result: ArmReport | None,
    difference: Figure | None,
    savings: Savings | None,
    gate: GateFacts,
    stages: list[StageRecord],
    planned_stages: int,
    reference: Reference = Reference.ANSWERS,
) -> Verdict:
    """Return the verdict on the result of a run.

    Args:
        metric: The job's first metric.
        full: The figures of the FullPrompt arm.
        result: The figures of QueryOnly, or of KeptStage if a gate stopped the run; None if no stage passed the gate.
        difference: The score of ``result`` minus the score of FullPrompt; None if there is no result.
        savings: The savings of ``result`` compared with FullPrompt; None if there is no result.
        gate: The settings of the gate, and the stage at which it stopped the run, if any.
        stages: The records of the stages that were trained.
        planned_stages: The number of stages in the schedule.
        reference: The answers with which the answers of every arm are compared.
    """

    def with_outcome(outcome: VerdictOutcome, headline: str, reasons: list[str]) -> Verdict:
        return Verdict(
            outcome=outcome,
            headline=headline,
            reasons=reasons,
            metric=metric,
            max_drop=gate.max_drop,
            arm=result.name if result else None,
        )

    interval_reasons = _interval_reasons(metric, full, result, difference, gate) if result and difference else []
    if gate.stopped_at is not None:
        headline, reasons = _stopped_by_gate(metric, result, savings, gate, stages, planned_stages)
        return with_outcome(VerdictOutcome.STOPPED_BY_GATE, headline, reasons + interval_reasons)
    assert result is not None and difference is not None, "a run that no gate stopped has QueryOnly"
    outcome = decide_outcome(metric=metric, full=full.figure(metric), difference=difference, max_drop=gate.max_drop)
    subject = _subject(stages, gate)
    result_score = formatting.named_score(metric, result.figure(metric).value)
    full_score = formatting.named_score(metric, full.figure(metric).value)
    reached = f"{result_score}, against {formatting.score(metric, full.figure(metric).value)} with the full prompt"
    if reference is Reference.FULL_PROMPT:
        reached = f"{result_score} with the answers of the full prompt"
    allowed = formatting.points(metric, gate.max_drop * metric.largest)
    if outcome is VerdictOutcome.INTERNALIZED:
        claim = "now does better than the full prompt" if difference.low > 0 else "is now enough"
        return with_outcome(
            outcome,
            f"{subject} {claim}: it reaches {reached}{_fewer_tokens(savings)}.",
            [*interval_reasons, f"The whole interval lies within the allowed loss of {allowed}."],
        )
    if outcome is VerdictOutcome.NOT_INTERNALIZED:
        loss = formatting.points(metric, -difference.value)
        return with_outcome(
            outcome,
            f"{subject} is not enough yet: it reaches {reached}. The loss is {loss}, and the job allows {allowed}.",
            [*interval_reasons, "The whole interval lies beyond the allowed loss."],
        )
    if is_full_prompt_too_weak(metric=metric, full=full.figure(metric), max_drop=gate.max_drop):
        return with_outcome(
            outcome,
            f"The comparison shows nothing: the full prompt itself reaches {full_score}, and {_lower_first(subject)} "
            f"reaches {result_score}.",
            [
                *interval_reasons,
                f"With an allowed loss of {allowed}, even a model that gets every row wrong would pass. A larger base "
                "model, a better prompt or clearer accepted answers would make the comparison meaningful.",
            ],
        )
    return with_outcome(
        outcome,
        f"The result is not settled: {_lower_first(subject)} reaches {reached}, but {formatting.count(full.rows)} "
        f"held-out rows are too few to show whether the loss stays within {allowed}.",
        [*interval_reasons, *_rows_advice(metric, difference, gate.max_drop, full.rows)],
    )


def _interval_reasons(
    metric: Metric, full: ArmReport, result: ArmReport, difference: Figure, gate: GateFacts
) -> list[str]:
    low, high = (formatting.difference(metric, bound, unit=False) for bound in (difference.low, difference.high))
    return [
        f"On the same {formatting.count(full.rows)} held-out rows, {result.name} minus {FULL_PROMPT} is "
        f"{formatting.difference(metric, difference.value)} (95 % interval {low} to {high}); the job allows a loss of "
        f"{formatting.points(metric, gate.max_drop * metric.largest)}."
    ]


def _stopped_by_gate(
    metric: Metric,
    result: ArmReport | None,
    savings: Savings | None,
    gate: GateFacts,
    stages: list[StageRecord],
    planned_stages: int,
) -> tuple[str, list[str]]:
    assert gate.stopped_at is not None
    failed = next(stage for stage in stages if stage.index == gate.stopped_at)
    headline = f"The gate stopped training at stage {gate.stopped_at + 1} of {planned_stages}"
    if result is None:
        headline += ": no stage came close enough to the full prompt, so there is no adapter."
    else:
        kept = next(stage for stage in stages if stage.index == gate.kept)
        headline += (
            f", and the adapter of stage {kept.index + 1} is kept. This adapter still needs "
            f"{formatting.percent(kept.achieved_rate)} of the template and {_num_examples(kept.shots)}, and reaches "
            f"{formatting.named_score(metric, result.figure(metric).value)}{_fewer_tokens(savings)}."
        )
    own_score = formatting.named_score(metric, failed.score)
    full_score = formatting.score(metric, failed.full_prompt_score)
    allowed = formatting.points(metric, gate.max_drop * metric.largest)
    return headline, [
        f"Stage {failed.index + 1} reached {own_score} with its own prompt, against {full_score} with the full prompt "
        f"on {formatting.count(failed.scored_rows)} held-out rows; the gate allows a loss of {allowed}.",
        "More rows, more epochs per stage or more stages may help. With onFail: Continue, training goes on after a "
        "stage that fails the gate.",
    ]


def _rows_advice(metric: Metric, difference: Figure, max_drop: float, rows: int) -> list[str]:
    """Return a sentence that estimates how many held-out rows would make the verdict conclusive.

    The width of a confidence interval is inversely proportional to the square root of the number of rows.
    """
    margin = abs(difference.value + max_drop * metric.largest)
    reach = difference.value - difference.low
    if margin <= 0 or reach <= margin or rows * (reach / margin) ** 2 > _MAX_ADVISED_ROWS:
        return ["The interval contains the allowed loss."]
    return [
        "The interval contains the allowed loss. If the difference stays as it is, about "
        f"{formatting.round_up(rows * (reach / margin) ** 2):,} held-out rows would settle it."
    ]


def _subject(stages: list[StageRecord], gate: GateFacts) -> str:
    """Return the subject of the verdict's sentences: the query alone, or the query with a part of the template if the
    schedule ends at a rate above 0."""
    last = next((stage for stage in stages if stage.index == gate.kept), None)
    if last is None or last.requested_rate <= 0:
        return "The query alone"
    return f"The query with {formatting.percent(last.achieved_rate)} of the template"


def _fewer_tokens(savings: Savings | None) -> str:
    if savings is None or savings.prompt_tokens <= 0:
        return ""
    return f", with {formatting.percent(savings.prompt_tokens)} fewer prompt tokens"


def _num_examples(shots: int) -> str:
    return {0: "no examples", 1: "1 example"}.get(shots, f"{shots} examples")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
