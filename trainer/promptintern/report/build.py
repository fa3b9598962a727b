"""Computes the report of a run (`schema.Report`) from its facts (`facts.RunFacts`).

All functions are pure, so the same facts always give the same report.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from promptintern_api.evaluation import Reference
from promptintern_api.metrics import Metric

from promptintern.evaluate.chrf import chrf_signature
from promptintern.evaluate.comparing import clusters_of, compare, matches_of, score_interval
from promptintern.evaluate.intervals import Interval, Table
from promptintern.evaluate.metrics import bleu
from promptintern.evaluate.pass_at_k import pass_at_k_interval
from promptintern.evaluate.scoring import Answers, row_statistics
from promptintern.evaluate.significance import LEVEL, holm, smallest_difference
from promptintern.report import formatting
from promptintern.report.costs import cost_per_thousand, training_cost
from promptintern.report.facts import (
    BASE,
    DIRECT,
    FULL_PROMPT,
    FULL_PROMPT_TUNED,
    KEPT_STAGE,
    QUERY_ONLY,
    TEMPLATE_ONLY,
    ArmFacts,
    LatencyFacts,
    RunFacts,
)
from promptintern.report.schema import (
    ArmReport,
    Comparison,
    Example,
    Examples,
    Figure,
    Latency,
    PassAtKReport,
    Report,
    Reproducibility,
    Savings,
    Spread,
    WallTime,
)
from promptintern.report.verdict import build_verdict
from promptintern.report.warn import MAX_NAMED, warnings_of
from promptintern.sandbox.verdict import Verdict, passed

_MAX_ID_LENGTH = 200
MAX_EXAMPLES = 20
"""The largest number of rows that the report shows as gained, and the largest number that it shows as lost."""

ARM_DESCRIPTIONS = {
    FULL_PROMPT: "base weights, the whole template, all examples",
    QUERY_ONLY: "internalized model, the query alone",
    KEPT_STAGE: "adapter of the last stage that passed the gate, with that stage's prompt",
    DIRECT: "plain fine-tune on the query alone, same budget",
    BASE: "base weights, the query alone",
    FULL_PROMPT_TUNED: "plain fine-tune with the full prompt, same budget",
    TEMPLATE_ONLY: "base weights, the whole template, no examples",
}
_COMPARED_ARMS = (
    (QUERY_ONLY, FULL_PROMPT),
    (KEPT_STAGE, FULL_PROMPT),
    (QUERY_ONLY, DIRECT),
    (QUERY_ONLY, FULL_PROMPT_TUNED),
    (QUERY_ONLY, BASE),
    (FULL_PROMPT_TUNED, FULL_PROMPT),
    (QUERY_ONLY, TEMPLATE_ONLY),
    (FULL_PROMPT, BASE),
)


@dataclass(frozen=True, kw_only=True)
class _ScoredArm:
    """The answers of an arm, with the statistics of each answer."""

    facts: ArmFacts
    tables: dict[Metric, Table]
    """The statistics of the answer to each row, shape [rows, statistics], by metric."""


def build_report(facts: RunFacts) -> Report:
    """Return the report that follows from ``facts``."""
    accepted = [row.accepted for row in facts.rows]
    scored = [_score(arm, accepted, facts) for arm in facts.arms]
    clusters = clusters_of(row.query for row in facts.rows)
    arms = [_arm_report(arm, facts, clusters) for arm in scored]
    comparisons = [each for metric in facts.metrics for each in _comparisons(scored, metric, clusters)]
    by_name = {arm.name: arm for arm in arms}
    full, result = by_name[FULL_PROMPT], by_name[facts.result.name] if facts.result else None
    savings = _savings(full, result) if result else None
    return Report(
        verdict=build_verdict(
            metric=facts.metrics[0],
            full=full,
            result=result,
            difference=_difference(comparisons, facts.metrics[0], result),
            savings=savings,
            gate=facts.gate,
            stages=facts.stages,
            planned_stages=facts.planned_stages,
            reference=facts.reference,
        ),
        warnings=list(map(_shown, warnings_of(facts, arms, comparisons))),
        notes=list(
            map(_shown, [*_reference_notes(facts), *_adaptive_notes(facts), *_unneeded_notes(facts), *facts.notes])
        ),
        metrics=facts.metrics,
        arms=arms,
        comparisons=comparisons,
        pass_at_k=_pass_at_k(facts, clusters),
        savings=savings,
        training=training_cost(facts, full, result),
        wall_time=_wall_time(facts),
        stages=facts.stages,
        planned_stages=facts.planned_stages,
        gate=facts.gate,
        direct=facts.direct,
        tuned=facts.tuned,
        loss=facts.loss,
        examples=_examples(facts, scored),
        job=facts.job,
        reference=facts.reference,
        uncovered=facts.uncovered,
        unneeded=facts.unneeded,
        data=facts.data,
        retention=facts.retention,
        teacher=facts.teacher,
        prices=facts.prices,
        reproducibility=Reproducibility(
            seeds=facts.job.seeds,
            versions=facts.job.versions,
            signatures=_signatures(facts, accepted),
            interval_methods=_methods(arms, comparisons),
            normalizers=facts.normalizers,
        ),
    )


def _pass_at_k(facts: RunFacts, clusters: Sequence[int]) -> PassAtKReport | None:
    drawn = facts.drawn
    if drawn is None:
        return None
    return PassAtKReport(
        samples=drawn.samples,
        temperature=drawn.temperature,
        arms={
            arm: {k: _figure(pass_at_k_interval(drawn.samples, counts, k, clusters)) for k in drawn.k}
            for arm, counts in drawn.passes.items()
        },
    )


def _shown(text: str) -> str:
    return formatting.shorten(text, formatting.MAX_TEXT_LENGTH)


def _wall_time(facts: RunFacts) -> WallTime | None:
    if not facts.attempts:
        return None
    total: dict[str, float] = defaultdict(float)
    for attempt in facts.attempts:
        for phase, seconds in attempt.seconds.items():
            total[phase] += seconds
    phases = dict(sorted(total.items(), key=lambda item: -item[1]))
    return WallTime(seconds=sum(phases.values()), phases=phases, attempts=len(facts.attempts))


def _reference_notes(facts: RunFacts) -> list[str]:
    if facts.reference is Reference.ANSWERS:
        return []
    return [
        "The answers of every arm are compared with the answers of FullPrompt, not with written answers. The scores "
        "say how far an arm agrees with the full prompt. FullPrompt itself has the largest possible score."
    ]


def _adaptive_notes(facts: RunFacts) -> list[str]:
    discarded = [stage for stage in facts.stages if stage.accepted is False and stage.index != facts.gate.kept]
    if all(stage.accepted is None for stage in facts.stages):
        return []
    count = len(facts.stages)
    note = f"The schedule is adaptive: it took {count} {'stage' if count == 1 else 'stages'}"
    forced = any(stage.accepted is False and stage.index == facts.gate.kept for stage in facts.stages)
    end = " The last step dropped too far as well, but the schedule had to end there." if forced else ""
    if not discarded:
        return [f"{note}, none of which was discarded.{end}"]
    numbers = ", ".join(str(stage.index + 1) for stage in discarded)
    share = sum(stage.training_tokens for stage in discarded) / sum(stage.training_tokens for stage in facts.stages)
    return [
        f"{note}. The score of stage {numbers} dropped too far, so training went on from an earlier stage. The "
        f"discarded training is {formatting.percent(share)} of the training tokens.{end}"
    ]


def _unneeded_notes(facts: RunFacts) -> list[str]:
    if not facts.unneeded:
        return []
    named = " ".join(f"\u201c{formatting.shorten(sentence, 80)}\u201d" for sentence in facts.unneeded[:MAX_NAMED])
    more = f" and {formatting.count(len(facts.unneeded) - MAX_NAMED)} more" if len(facts.unneeded) > MAX_NAMED else ""
    return [
        "Without one of these sentences of the template, the base model's probabilities of the training answers hardly "
        f"change: {named}{more}. Such a sentence may be superfluous, be repeated elsewhere in the prompt, be ignored "
        "by the base model, or concern no training row."
    ]


def _score(arm: ArmFacts, accepted: Sequence[Sequence[str]], facts: RunFacts) -> _ScoredArm:
    answers = Answers(
        predictions=arm.predictions,
        accepted=accepted,
        passed=passed(arm.verdicts),
        numbers=arm.numbers,
        normalizers=facts.normalizers,
    )
    wanted = dict.fromkeys([*facts.metrics, judging_metric(facts.metrics)])
    return _ScoredArm(facts=arm, tables={metric: row_statistics(metric, answers) for metric in wanted})


def judging_metric(metrics: Sequence[Metric]) -> Metric:
    """Return the metric by which single answers are right or wrong: the first share of ``metrics``, or ExactMatch."""
    return next((metric for metric in metrics if metric.is_share), Metric.EXACT_MATCH)


def _arm_report(arm: _ScoredArm, facts: RunFacts, clusters: Sequence[int]) -> ArmReport:
    prompt, answer = _spread(arm.facts.prompt_tokens), _spread(arm.facts.answer_tokens)
    verdicts = arm.facts.verdicts
    return ArmReport(
        name=arm.facts.name,
        description=_description(arm.facts, facts),
        rows=len(facts.rows),
        scores={metric: _figure(score_interval(metric, arm.tables[metric], clusters)) for metric in facts.metrics},
        programs=None if verdicts is None else {each: verdicts.count(each) for each in Verdict if each in verdicts},
        prompt_tokens=prompt,
        answer_tokens=answer,
        latency=_latency(arm.facts.latency) if arm.facts.latency else None,
        cost_per_thousand=cost_per_thousand(arm.facts, facts.prices, is_kept=False) if facts.prices else None,
        shared_tokens=arm.facts.shared_tokens,
        computed_tokens=prompt.mean - arm.facts.shared_tokens,
        kept_latency=_latency(arm.facts.kept_latency) if arm.facts.kept_latency else None,
        kept_cost_per_thousand=cost_per_thousand(arm.facts, facts.prices, is_kept=True) if facts.prices else None,
    )


def _description(arm: ArmFacts, facts: RunFacts) -> str:
    if arm.name in (DIRECT, FULL_PROMPT_TUNED) and (facts.data.queries or facts.data.written):
        return f"{ARM_DESCRIPTIONS[arm.name]}, on the rows with written answers only"
    if arm.rate is not None and arm.shots is not None:
        examples = {0: "no examples", 1: "1 example"}.get(arm.shots, f"{arm.shots} examples")
        return f"base weights, {formatting.percent(arm.rate)} of the template, {examples}"
    return ARM_DESCRIPTIONS.get(arm.name, "")


def _figure(interval: Interval) -> Figure:
    return Figure(**asdict(interval))


def _spread(tokens: Sequence[int]) -> Spread:
    return Spread(mean=float(np.mean(tokens)), p95=float(np.percentile(tokens, 95)))


def _latency(facts: LatencyFacts) -> Latency:
    return Latency(
        median_seconds=float(np.median(facts.seconds_alone)),
        p95_seconds=float(np.percentile(facts.seconds_alone, 95)),
        queries=len(facts.seconds_alone),
        batched_queries_per_second=facts.batched_queries / facts.batched_seconds if facts.batched_seconds else None,
        batch_size=facts.batch_size,
    )


def _comparisons(scored: Sequence[_ScoredArm], metric: Metric, clusters: Sequence[int]) -> list[Comparison]:
    """Return the comparisons of arms in ``metric``, whose p-values are corrected for their number."""
    by_name = {arm.facts.name: arm for arm in scored}
    pairs = [(arm, against) for arm, against in _COMPARED_ARMS if arm in by_name and against in by_name]
    tests = [
        compare(metric, by_name[arm].tables[metric], by_name[against].tables[metric], clusters)
        for arm, against in pairs
    ]
    corrected = holm([p_value for _, p_value in tests])
    return [
        Comparison(
            metric=metric,
            arm=arm,
            against=against,
            difference=_figure(interval),
            p_value=p_value,
            corrected_p_value=corrected_p_value,
            smallest_difference=smallest_difference(interval),
            reading=_reading(interval, corrected_p_value),
        )
        for (arm, against), (interval, p_value), corrected_p_value in zip(pairs, tests, corrected, strict=True)
    ]


def _reading(interval: Interval, p_value: float) -> Literal["better", "worse", "undecided"]:
    if p_value > LEVEL:
        return "undecided"
    return "better" if interval.value > 0 else "worse"


def _difference(comparisons: Sequence[Comparison], metric: Metric, result: ArmReport | None) -> Figure | None:
    if result is None:
        return None
    return next(c.difference for c in comparisons if (c.metric, c.arm, c.against) == (metric, result.name, FULL_PROMPT))


def _savings(full: ArmReport, result: ArmReport) -> Savings:
    kept = full.kept_latency
    return Savings(
        prompt_tokens=_saved(full.prompt_tokens.mean, result.prompt_tokens.mean) or 0.0,
        latency_ratio=_latency_ratio(full.latency, result.latency),
        throughput_ratio=_throughput_ratio(full.latency, result.latency),
        cost=_saved(full.cost_per_thousand, result.cost_per_thousand),
        computed_tokens=_saved(full.computed_tokens, result.computed_tokens) or 0.0,
        kept_latency_ratio=_latency_ratio(kept, result.latency),
        kept_throughput_ratio=_throughput_ratio(kept, result.latency),
        kept_cost=_saved(full.kept_cost_per_thousand, result.kept_cost_per_thousand),
    )


def _saved(before: float | None, after: float | None) -> float | None:
    """Return the share that is saved, or None if one of the figures is missing or there was nothing to save."""
    return None if after is None or not before else 1 - after / before


def _latency_ratio(before: Latency | None, after: Latency | None) -> float | None:
    if before is None or after is None or not after.median_seconds:
        return None
    return before.median_seconds / after.median_seconds


def _throughput_ratio(before: Latency | None, after: Latency | None) -> float | None:
    rates = [latency.batched_queries_per_second if latency else None for latency in (before, after)]
    return rates[1] / rates[0] if rates[0] and rates[1] else None


def _examples(facts: RunFacts, scored: Sequence[_ScoredArm]) -> Examples:
    by_name, metric = {arm.facts.name: arm for arm in scored}, judging_metric(facts.metrics)
    if facts.result is None:
        return Examples(metric=metric, gained_total=0, lost_total=0, gained=[], lost=[])
    full, result = by_name[FULL_PROMPT], by_name[facts.result.name]
    before, after = (matches_of(arm.tables[metric]) for arm in (full, result))
    changes = [now - then for now, then in zip(after, before, strict=True)]
    gained = [row for row, change in enumerate(changes) if change > 0]
    lost = [row for row, change in enumerate(changes) if change < 0]

    def example(row: int) -> Example:
        held_out = facts.rows[row]
        return Example(
            id=formatting.shorten(held_out.id, _MAX_ID_LENGTH),
            query=_shown(held_out.query),
            expected=_shown(held_out.accepted[0]),
            with_full_prompt=_shown(full.facts.predictions[row]),
            with_result=_shown(result.facts.predictions[row]),
        )

    return Examples(
        metric=metric,
        gained_total=len(gained),
        lost_total=len(lost),
        gained=[example(row) for row in gained[:MAX_EXAMPLES]],
        lost=[example(row) for row in lost[:MAX_EXAMPLES]],
    )


def _signatures(facts: RunFacts, accepted: Sequence[Sequence[str]]) -> dict[Metric, str]:
    """Return the signature of each metric of sacrebleu, which says whether the rows have several accepted answers."""
    predictions, signatures = facts.arms[0].predictions, dict[Metric, str]()
    if Metric.BLEU in facts.metrics:
        signatures[Metric.BLEU] = bleu(predictions, accepted).signature
    if Metric.CHRF in facts.metrics:
        signatures[Metric.CHRF] = chrf_signature(predictions, accepted)
    return signatures


def _methods(arms: Sequence[ArmReport], comparisons: Sequence[Comparison]) -> list[str]:
    figures = [figure for arm in arms for figure in arm.scores.values()]
    return sorted({figure.method for figure in [*figures, *(c.difference for c in comparisons)]})
