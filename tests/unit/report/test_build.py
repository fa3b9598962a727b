"""The report's figures, compared with other ways to compute them."""

import json

import numpy as np
import pytest
import sacrebleu
from jsonschema import Draft202012Validator
from promptintern.report.build import MAX_EXAMPLES, build_report
from promptintern.report.facts import RunFacts, facts_from_json, facts_to_json
from promptintern.report.loss_curve import MAX_POINTS, loss_curve
from promptintern.report.schema import Report, report_from_json, report_json_schema, report_to_json
from promptintern_api.metrics import Metric

from tests.unit.report.figures import BOTH, facts, stage


@pytest.fixture(scope="module")
def run() -> RunFacts:
    return facts(metrics=BOTH)


@pytest.fixture(scope="module")
def report(run: RunFacts) -> Report:
    return build_report(run)


def test_scores_and_tokens(run: RunFacts, report: Report) -> None:
    for arm in run.arms:
        arm_report = report.arm(arm.name)
        assert arm_report is not None
        right = [p == row.accepted[0] for p, row in zip(arm.predictions, run.rows, strict=True)]
        assert arm_report.figure(Metric.EXACT_MATCH).value == np.mean(right)
        corpus = sacrebleu.corpus_bleu(arm.predictions, [[row.accepted[0] for row in run.rows]])
        bleu = arm_report.figure(Metric.BLEU)
        assert bleu.value == pytest.approx(corpus.score)
        assert bleu.low <= bleu.value <= bleu.high
        assert arm_report.prompt_tokens.mean == np.mean(arm.prompt_tokens)
        assert arm_report.answer_tokens.p95 == np.percentile(arm.answer_tokens, 95)


def test_cost_and_savings(run: RunFacts, report: Report) -> None:
    full, result = report.arm("FullPrompt"), report.arm("QueryOnly")
    assert full is not None
    assert result is not None
    # 1,000 queries at 3 and 15 USD a million tokens.
    assert full.cost_per_thousand == pytest.approx((full.prompt_tokens.mean * 3 + full.answer_tokens.mean * 15) / 1000)
    assert report.savings is not None
    assert report.savings.prompt_tokens == pytest.approx(1 - result.prompt_tokens.mean / full.prompt_tokens.mean)
    assert report.savings.cost == pytest.approx(1 - result.cost_per_thousand / full.cost_per_thousand)
    assert full.latency is not None
    assert full.latency.median_seconds == np.median(run.arms[0].latency.seconds_alone)  # type: ignore[union-attr]
    assert full.latency.batched_queries_per_second == pytest.approx(32 / (0.5 + 1.21))
    assert report.savings.latency_ratio > 1
    assert report.savings.throughput_ratio > 1


def test_a_run_without_prices_or_timing_has_no_cost_and_no_latency(run: RunFacts) -> None:
    untimed = [arm.model_copy(update={"latency": None}) for arm in run.arms]
    changes = {"prices": None, "arms": untimed, "metrics": [Metric.EXACT_MATCH]}
    report = build_report(run.model_copy(update=changes))
    assert all(arm.cost_per_thousand is None and arm.latency is None for arm in report.arms)
    assert report.savings is not None
    assert report.savings.cost is report.savings.latency_ratio is report.savings.throughput_ratio is None


def test_comparisons_are_on_the_same_rows(report: Report) -> None:
    pairs = [(c.arm, c.against) for c in report.comparisons if c.metric is Metric.EXACT_MATCH]
    assert pairs == [
        ("QueryOnly", "FullPrompt"),
        ("QueryOnly", "Direct"),
        ("QueryOnly", "Base"),
        ("FullPrompt", "Base"),
    ]
    for c in report.comparisons:
        first, second = report.arm(c.arm), report.arm(c.against)
        assert first is not None
        assert second is not None
        assert c.difference.value == pytest.approx(first.figure(c.metric).value - second.figure(c.metric).value)
        assert 0 < c.p_value <= c.corrected_p_value <= 1
        direction = "better" if c.difference.value > 0 else "worse"
        assert c.reading == (direction if c.corrected_p_value <= 0.05 else "undecided")
        assert c.smallest_difference > 0


def test_p_values_are_corrected_for_the_comparisons_in_their_metric(report: Report) -> None:
    for metric in report.metrics:
        tests = [(c.p_value, c.corrected_p_value) for c in report.comparisons if c.metric is metric]
        smallest = min(tests)
        assert smallest[1] == pytest.approx(len(tests) * smallest[0])


def test_rows_with_the_same_query_widen_intervals(run: RunFacts, report: Report) -> None:
    """Four rows share each query, and differ in white space only."""
    rows = [row.model_copy(update={"query": f"query  {n // 4}" + " " * (n % 4)}) for n, row in enumerate(run.rows)]
    repeated = build_report(run.model_copy(update={"rows": rows}))
    for c, other in zip(report.comparisons, repeated.comparisons, strict=True):
        assert other.difference.value == c.difference.value
        assert "50 clusters" in other.difference.method
    for arm, other_arm in zip(report.arms, repeated.arms, strict=True):
        width, other_width = (f.high - f.low for f in (a.figure(Metric.EXACT_MATCH) for a in (arm, other_arm)))
        assert other_width >= width - 1e-12


def test_five_different_queries_are_said_to_decide_nothing(run: RunFacts) -> None:
    rows = [row.model_copy(update={"query": f"query {n % 5}"}) for n, row in enumerate(run.rows)]
    (warning,) = (w for w in build_report(run.model_copy(update={"rows": rows})).warnings if "different quer" in w)
    assert "5 different queries" in warning and "below 6" in warning


def test_gained_and_lost(run: RunFacts, report: Report) -> None:
    examples = report.examples
    full, result = run.arms[0], run.arms[1]
    right = {
        arm.name: [p == row.accepted[0] for p, row in zip(arm.predictions, run.rows, strict=True)]
        for arm in (full, result)
    }
    gained = [i for i in range(200) if right["QueryOnly"][i] and not right["FullPrompt"][i]]
    lost = [i for i in range(200) if right["FullPrompt"][i] and not right["QueryOnly"][i]]
    assert [e.id for e in examples.gained] == [run.rows[i].id for i in gained]
    assert [e.id for e in examples.lost] == [run.rows[i].id for i in lost]
    assert examples.lost[0].with_result == result.predictions[lost[0]]
    assert examples.lost[0].with_full_prompt == examples.lost[0].expected


def test_examples_end_at_twenty() -> None:
    examples = build_report(facts(result=0.3)).examples
    assert len(examples.lost) == MAX_EXAMPLES == 20
    assert examples.lost_total > 20


def test_a_long_loss_curve_has_few_points_and_keeps_its_mean() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(size=12_345)
    curve = loss_curve("0", values.tolist())
    assert len(curve.points) == MAX_POINTS == 100
    assert curve.points[-1].step == 12_345
    assert [p.step for p in curve.points] == sorted(p.step for p in curve.points)
    assert np.mean([p.loss for p in curve.points]) == pytest.approx(values.mean(), rel=1e-3)


def test_curves_come_in_the_order_of_training() -> None:
    stages = [stage(i, count=12) for i in range(12)]
    report = build_report(facts(rows=20, stages=stages, kept=11))
    assert [curve.track for curve in report.loss] == [*map(str, range(12)), "direct"]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (facts(direct=0.97, rows=50), "Plain fine-tuning does as well here"),
        (facts(direct=0.97, result=0.7), "Plain fine-tuning does better here"),
        (facts(base=0.97), "the prompt adds nothing that could be internalized"),
        (
            facts(stages=[stage(0), stage(1, score=0.7, gate="failed"), stage(2), stage(3)]),
            "Stage 2 fell below the gate (70.0 % exact match against 96.5 % with the full prompt). Training went on",
        ),
        (facts(warnings=["3 training rows also stand in eval"]), "3 training rows also stand in eval"),
        (
            facts().model_copy(update={"max_new_tokens": 10}),
            "50 % of FullPrompt's, 50 % of QueryOnly's, 50 % of Direct's, 50 % of Base's answers reached the limit "
            "evaluation.maxNewTokens (10)",
        ),
    ],
)
def test_warnings(run: RunFacts, message: str) -> None:
    assert any(message in warning for warning in build_report(run).warnings)


def test_no_warning_about_plain_fine_tuning_if_nothing_was_learned() -> None:
    run = facts(full=0, result=0, direct=0, base=0)
    warnings = build_report(run).warnings
    assert any("hardly ever answers correctly, even with the full prompt" in warning for warning in warnings)
    assert not any("Plain fine-tuning" in warning for warning in warnings)


def test_a_good_run_has_no_warning() -> None:
    assert build_report(facts()).warnings == []


def test_bleu_of_short_answers_is_explained() -> None:
    run = facts(rows=120, metrics=BOTH)
    rows = [row.model_copy(update={"accepted": ["yes"]}) for row in run.rows]
    arms = [arm.model_copy(update={"predictions": ["yes"] * 120}) for arm in run.arms]
    warnings = build_report(run.model_copy(update={"rows": rows, "arms": arms})).warnings
    assert any(
        "BLEU is 0 for FullPrompt, QueryOnly, Direct, Base, although some answers are right" in w for w in warnings
    )


def test_the_same_facts_give_the_same_report(run: RunFacts, report: Report) -> None:
    assert build_report(facts_from_json(facts_to_json(run))) == report


@pytest.mark.parametrize(
    "run",
    [facts(metrics=BOTH, rows=30), facts(prices=False, direct=None, base=None)],
)
def test_report_json_follows_its_schema_and_comes_back(run: RunFacts) -> None:
    report = build_report(run)
    text = report_to_json(report)
    document = json.loads(text)
    assert document["schemaVersion"] == "3.1"
    assert document["verdict"]["outcome"] == report.verdict.outcome
    schema = report_json_schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(document)
    assert report_from_json(text) == report
    assert not Draft202012Validator(schema).is_valid(document | {"colour": "red"})


def test_signatures_say_whether_rows_have_several_accepted_answers(run: RunFacts) -> None:
    metrics = [Metric.EXACT_MATCH, Metric.BLEU, Metric.CHRF]
    for more, begins in (([], "nrefs:1|"), (["another answer"], "nrefs:var|")):
        rows = [run.rows[0].model_copy(update={"accepted": [*run.rows[0].accepted, *more]}), *run.rows[1:]]
        signatures = build_report(run.model_copy(update={"rows": rows, "metrics": metrics})).reproducibility.signatures
        assert set(signatures) == {Metric.BLEU, Metric.CHRF}
        assert all(signature.startswith(begins) for signature in signatures.values())
