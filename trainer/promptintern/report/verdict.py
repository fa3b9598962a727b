"""The verdict: whether the query alone is enough, in words that need no statistics."""

from promptintern_api.evaluation import Metric

from promptintern.report import words
from promptintern.report.facts import FULL_PROMPT, GateFacts
from promptintern.report.schema import ArmReport, Figure, Outcome, Savings, Verdict
from promptintern.stage_record import StageRecord

TOLERANCE = 1e-9
"""For sums of floats; far below one row's worth."""
_MOST_ROWS_ADVISED = 1_000_000


def judge(*, metric: Metric, full: Figure, difference: Figure, max_drop: float) -> Outcome:
    """Internalized if the whole interval of ``difference`` lies above the allowed loss, NotInternalized if all of it
    lies below, else Inconclusive.

    It is Inconclusive too where FullPrompt's own score is within the allowed loss of 0: then a model that gets
    everything wrong would do. Only a result that is surely better than FullPrompt counts there.

    Args:
        full: FullPrompt's score.
        difference: Score of the result minus FullPrompt's, on the same rows.
        max_drop: The allowed loss, as a share of the metric's range.
    """
    allowed = -max_drop * words.scale(metric)
    if difference.high < allowed - TOLERANCE:
        return "NotInternalized"
    if vacuous(metric=metric, full=full, max_drop=max_drop) and difference.low <= 0:
        return "Inconclusive"
    return "Internalized" if difference.low >= allowed - TOLERANCE else "Inconclusive"


def vacuous(*, metric: Metric, full: Figure, max_drop: float) -> bool:
    """Whether FullPrompt scores so little that losing all of it would be allowed."""
    return full.value <= max_drop * words.scale(metric) + TOLERANCE


def verdict(
    *,
    metric: Metric,
    full: ArmReport,
    result: ArmReport | None,
    difference: Figure | None,
    savings: Savings | None,
    gate: GateFacts,
    stages: list[StageRecord],
    planned_stages: int,
) -> Verdict:
    """The verdict from the figures.

    Args:
        metric: The job's first metric.
        full: The arm FullPrompt.
        result: The arm QueryOnly, or KeptStage if a gate stopped the run; None if no stage passed.
        difference: Score of ``result`` minus FullPrompt's; None without a result.
    """

    def made(outcome: Outcome, headline: str, reasons: list[str]) -> Verdict:
        return Verdict(
            outcome=outcome,
            headline=headline,
            reasons=reasons,
            metric=metric,
            max_drop=gate.max_drop,
            arm=result.name if result else None,
        )

    compared = _compared(metric, full, result, difference, gate) if result and difference else []
    if gate.stopped_at is not None:
        headline, reasons = _stopped(metric, result, savings, gate, stages, planned_stages)
        return made("StoppedByGate", headline, reasons + compared)
    assert result is not None and difference is not None, "a run that no gate stopped has QueryOnly"
    outcome = judge(metric=metric, full=full.figure(metric), difference=difference, max_drop=gate.max_drop)
    subject = _subject(stages)
    own = words.score_sentence(metric, result.figure(metric).value)
    theirs = words.score_sentence(metric, full.figure(metric).value)
    against = f"{own}, against {words.score(metric, full.figure(metric).value)} with the full prompt"
    allowed = words.points(metric, gate.max_drop * words.scale(metric))
    if outcome == "Internalized":
        claim = "now does better than the full prompt" if difference.low > 0 else "is now enough"
        return made(
            outcome,
            f"{subject} {claim}: it reaches {against}{_fewer(savings)}.",
            [*compared, f"The whole interval lies within the allowed loss of {allowed}."],
        )
    if outcome == "NotInternalized":
        loss = words.points(metric, -difference.value)
        return made(
            outcome,
            f"{subject} is not enough yet: it reaches {against}. The loss is {loss}, and the job allows {allowed}.",
            [*compared, "The whole interval lies beyond the allowed loss."],
        )
    if vacuous(metric=metric, full=full.figure(metric), max_drop=gate.max_drop):
        return made(
            outcome,
            f"The comparison shows nothing: the full prompt itself reaches {theirs}, and {_lower_first(subject)} "
            f"reaches {own}.",
            [
                *compared,
                f"With an allowed loss of {allowed}, even a model that gets every row wrong would pass. A larger base "
                "model, a better prompt or clearer accepted answers would make the comparison meaningful.",
            ],
        )
    return made(
        outcome,
        f"The result is not settled: {_lower_first(subject)} reaches {against}, but {words.count(full.rows)} held-out "
        f"rows are too few to show whether the loss stays within {allowed}.",
        [*compared, *_rows_advice(metric, difference, gate.max_drop, full.rows)],
    )


def _compared(metric: Metric, full: ArmReport, result: ArmReport, difference: Figure, gate: GateFacts) -> list[str]:
    low, high = (words.difference(metric, bound, unit=False) for bound in (difference.low, difference.high))
    return [
        f"On the same {words.count(full.rows)} held-out rows, {result.name} minus {FULL_PROMPT} is "
        f"{words.difference(metric, difference.value)} (95 % interval {low} to {high}); the job allows a loss of "
        f"{words.points(metric, gate.max_drop * words.scale(metric))}."
    ]


def _stopped(
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
            f"{words.percent(kept.achieved_rate)} of the template and {_examples(kept.shots)}, and reaches "
            f"{words.score_sentence(metric, result.figure(metric).value)}{_fewer(savings)}."
        )
    return headline, [
        f"Stage {failed.index + 1} reached {words.score_sentence(metric, failed.score)} with its own prompt, against "
        f"{words.score(metric, failed.full_prompt_score)} with the full prompt on {words.count(failed.scored_rows)} "
        f"held-out rows; the gate allows a loss of {words.points(metric, gate.max_drop * words.scale(metric))}.",
        "More rows, more epochs per stage or more stages may help. With onFail: Continue, training goes on after a "
        "stage that fails the gate.",
    ]


def _rows_advice(metric: Metric, difference: Figure, max_drop: float, rows: int) -> list[str]:
    """How many rows would do, since an interval's width falls with the square root of their number."""
    margin = abs(difference.value + max_drop * words.scale(metric))
    reach = difference.value - difference.low
    if margin <= 0 or reach <= margin or rows * (reach / margin) ** 2 > _MOST_ROWS_ADVISED:
        return ["The interval contains the allowed loss."]
    return [
        "The interval contains the allowed loss. If the difference stays as it is, about "
        f"{words.rounded_up(rows * (reach / margin) ** 2):,} held-out rows would settle it."
    ]


def _subject(stages: list[StageRecord]) -> str:
    """Who answers: the query alone, unless the schedule ends at a rate above 0."""
    last = stages[-1] if stages else None
    if last is None or last.requested_rate <= 0:
        return "The query alone"
    return f"The query with {words.percent(last.achieved_rate)} of the template"


def _fewer(savings: Savings | None) -> str:
    if savings is None or savings.prompt_tokens <= 0:
        return ""
    return f", with {words.percent(savings.prompt_tokens)} fewer prompt tokens"


def _examples(shots: int) -> str:
    return {0: "no examples", 1: "1 example"}.get(shots, f"{shots} examples")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
