"""Writes the warnings of the report, which say why a reader should be careful with its figures."""

from collections.abc import Sequence

from promptintern_api.metrics import Metric

from promptintern.evaluate.significance import fewest_rows
from promptintern.report import formatting
from promptintern.report.facts import BASE, DIRECT, FULL_PROMPT, QUERY_ONLY, RunFacts
from promptintern.report.schema import ArmReport, Comparison
from promptintern.report.verdict import is_full_prompt_too_weak
from promptintern.rows.duplicates import normalise_query
from promptintern.stage_record import StageRecord

MIN_ROWS = 100
"""The number of held-out rows below which the report warns of wide intervals."""
MAX_NAMED = 12
"""The largest number of uncovered entries of the template that a warning names."""
MIN_CUT_SHARE = 0.05
"""The share of an arm's answers that may reach the length limit. If the share is larger, the report warns of it."""


def warnings_of(facts: RunFacts, arms: Sequence[ArmReport], comparisons: Sequence[Comparison]) -> list[str]:
    """Return the warnings that the run recorded, followed by the warnings that result from its figures."""
    return [
        *facts.warnings,
        *_nothing_to_internalize(facts, arms, comparisons),
        *_direct_is_as_good(facts, arms, comparisons),
        *_uncovered_entries(facts),
        *_failed_gates(facts),
        *_forgotten(facts),
        *_few_rows(facts),
        *_cut_answers(facts),
        *_zero_bleu(facts, arms),
        *_scorer_faults(facts),
    ]


def _find_comparison(comparisons: Sequence[Comparison], metric: Metric, arm: str, against: str) -> Comparison | None:
    return next((c for c in comparisons if (c.metric, c.arm, c.against) == (metric, arm, against)), None)


def _direct_is_as_good(facts: RunFacts, arms: Sequence[ArmReport], comparisons: Sequence[Comparison]) -> list[str]:
    metric = facts.metrics[0]
    comparison = _find_comparison(comparisons, metric, QUERY_ONLY, DIRECT)
    learned = any(arm.figure(metric).value > 0 for arm in arms if arm.name in (QUERY_ONLY, DIRECT))
    if comparison is None or comparison.reading == "better" or not learned:
        return []
    low, high = (
        formatting.difference(metric, bound, unit=False)
        for bound in (comparison.difference.low, comparison.difference.high)
    )
    if comparison.reading == "worse":
        reading = f"does better here: Direct, which trained on the query alone from the start, beats {QUERY_ONLY}"
    else:
        reading = (
            f"does as well here: Direct, which trained on the query alone from the start, is as good as {QUERY_ONLY}, "
            f"as far as {formatting.count(len(facts.rows))} rows can show"
        )
    return [
        f"Plain fine-tuning {reading} ({QUERY_ONLY} minus {DIRECT}: "
        f"{formatting.difference(metric, comparison.difference.value)}, 95 % interval {low} to {high})."
    ]


def _nothing_to_internalize(facts: RunFacts, arms: Sequence[ArmReport], comparisons: Sequence[Comparison]) -> list[str]:
    metric = facts.metrics[0]
    full = next(arm for arm in arms if arm.name == FULL_PROMPT).figure(metric)
    if is_full_prompt_too_weak(metric=metric, full=full, max_drop=facts.gate.max_drop):
        learned = (
            "What the result can do, it learned from the training answers and not from the prompt."
            if facts.data.train
            else "It was the teacher, so the result learned wrong answers; use a stronger base model or written ones."
        )
        return [
            "The base model hardly ever answers correctly, even with the full prompt "
            f"({formatting.named_score(metric, full.value)}). {learned}"
        ]
    comparison = _find_comparison(comparisons, metric, FULL_PROMPT, BASE)
    if comparison is None or comparison.reading == "better":
        return []
    return [
        "The base model answers as well with the query alone as with the full prompt (FullPrompt minus Base: "
        f"{formatting.difference(metric, comparison.difference.value)}), so the prompt adds nothing "
        "that could be internalized."
    ]


def _uncovered_entries(facts: RunFacts) -> list[str]:
    if not facts.uncovered:
        return []
    count = len(facts.uncovered)
    named = ", ".join(formatting.shorten(entry, 40) for entry in facts.uncovered[:MAX_NAMED])
    more = f" and {formatting.count(count - MAX_NAMED)} more" if count > MAX_NAMED else ""
    entries = "1 entry" if count == 1 else f"{formatting.count(count)} entries"
    return [
        f"No training row mentions {entries} of the template's lists: {named}{more}. What no row shows, the adapter "
        "cannot know; add rows or queries about them."
    ]


def _failed_gates(facts: RunFacts) -> list[str]:
    return [
        f"Stage {stage.index + 1} fell below the gate{_stage_scores(facts.metrics[0], stage)}. Training went on, "
        "because the job sets onFail: Continue."
        for stage in facts.stages
        if stage.gate == "failed"
        and stage.index != facts.gate.stopped_at
        and (stage.accepted is not False or stage.index == facts.gate.kept)
    ]


def _forgotten(facts: RunFacts) -> list[str]:
    retention = facts.retention
    if retention is None or retention.passed:
        return []
    if not retention.tokens:
        return ["The base model gives no answer under the other prompt, so evaluation.retention could compare nothing."]
    limit = "" if retention.max_changed is None else f" (the job allows {formatting.percent(retention.max_changed)})"
    return [
        "The adapter also changes what the model does under other prompts: "
        f"{formatting.count(retention.changed)} of {formatting.count(retention.prompts)} answers changed{limit}, and "
        f"the divergence from the base model is {formatting.number(retention.divergence)} nats per token (the job "
        f"allows {formatting.number(retention.max_divergence)}). Serve it only for the prompt that it internalized, or "
        "train it for fewer epochs, at a lower learning rate or on more rows."
    ]


def _stage_scores(metric: Metric, stage: StageRecord) -> str:
    full = formatting.score(metric, stage.full_prompt_score)
    return f" ({formatting.named_score(metric, stage.score)} against {full} with the full prompt)"


def _few_rows(facts: RunFacts) -> list[str]:
    queries = len({normalise_query(row.query) for row in facts.rows})
    if queries < fewest_rows():
        return [
            f"The held-out rows have {formatting.count(queries)} different {'query' if queries == 1 else 'queries'}. "
            f"That is too few: below {fewest_rows()}, no comparison of two arms can come out as decided, however large "
            "the difference is."
        ]
    if len(facts.rows) >= MIN_ROWS:
        return []
    return [
        f"There are only {formatting.count(len(facts.rows))} held-out rows, so the intervals are wide. It takes a few "
        "hundred rows to tell a loss of a few points from chance."
    ]


def _cut_answers(facts: RunFacts) -> list[str]:
    if facts.max_new_tokens is None:
        return []
    cut = {
        arm.name: sum(tokens >= facts.max_new_tokens for tokens in arm.answer_tokens) / len(facts.rows)
        for arm in facts.arms
    }
    shares = ", ".join(
        f"{formatting.percent(share)} of {name}'s" for name, share in cut.items() if share > MIN_CUT_SHARE
    )
    if not shares:
        return []
    return [
        f"{shares} answers reached the limit evaluation.maxNewTokens ({facts.max_new_tokens}). Such an answer is "
        "rarely an exact match. Raise the limit, or set evaluation.stop to a text that ends an answer."
    ]


def _scorer_faults(facts: RunFacts) -> list[str]:
    faults = {arm.name: arm.numbers.count(None) for arm in facts.arms if arm.numbers and None in arm.numbers}
    if not faults:
        return []
    counts = ", ".join(f"{formatting.count(count)} of {name}'s" for name, count in faults.items())
    reasons = dict.fromkeys(arm.fault for arm in facts.arms if arm.name in faults and arm.fault)
    why = (
        f" The most frequent reason is: {'; '.join(formatting.shorten(each, 200) for each in reasons)}"
        if reasons
        else ""
    )
    return [f"The scorer gave no number to {counts} answers, and each of them counts as 0.{why}"]


def _zero_bleu(facts: RunFacts, arms: Sequence[ArmReport]) -> list[str]:
    if Metric.BLEU not in facts.metrics:
        return []
    shares = [metric for metric in facts.metrics if metric.is_share]
    zero_arms = [
        arm.name
        for arm in arms
        if arm.figure(Metric.BLEU).value == 0 and any(arm.figure(share).value > 0 for share in shares)
    ]
    if not zero_arms:
        return []
    return [
        f"BLEU is 0 for {', '.join(zero_arms)}, although some answers are right: BLEU counts runs of four tokens, and "
        "these answers are shorter. Rely on the share of right answers instead."
    ]
