"""Whether it is worth trying: each rule decides on its own figures, in the stated order."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from promptintern.evaluate.scoring import Answers
from promptintern.report.estimate import Difference, Estimate, advise, compare_arms
from promptintern_api.metrics import Metric

ROWS = 50


def arms(full: int, base: int, both: int | None = None, *, rows: int = ROWS) -> Difference:
    """Return the comparison of two arms that answer so many rows right, ``both`` of them in common."""
    shared = min(full, base) if both is None else both
    right = [[n < full for n in range(rows)], [full - shared <= n < full - shared + base for n in range(rows)]]
    answers = [Answers(predictions=["x" if hit else "y" for hit in row], accepted=[["x"]] * rows) for row in right]
    return compare_arms(Metric.EXACT_MATCH, answers[0], answers[1], [f"query {n}" for n in range(rows)])


def an_estimate(prompt: Difference, **more: object) -> Estimate:
    known = Estimate(
        metric=Metric.EXACT_MATCH,
        rows=ROWS,
        prompt=prompt,
        max_drop=0.02,
        tokens_before=300,
        tokens_after=15,
        kept_tokens=200,
        answer_seconds=60,
    )
    return replace(known, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("estimate", "is_worth", "text"),
    [
        (an_estimate(arms(45, 10)), True, "Worth trying: the prompt helps this model (90.0 % exact match with"),
        (an_estimate(arms(1, 0)), False, "hardly ever answers right, even with the full prompt (2.0 %"),
        (an_estimate(arms(45, 10), tokens_after=290), False, "saves only 3 % of the prompt tokens"),
        (an_estimate(arms(45, 10), has_prices=True), False, "the training never pays"),
        (an_estimate(arms(45, 10), has_prices=True, pays_from=5000), True, "Worth trying"),
        (an_estimate(arms(30, 48)), False, "the prompt does not help this model (60.0 % exact match"),
        (an_estimate(arms(32, 29)), None, "These 50 rows cannot tell"),
    ],
)
def test_each_rule(estimate: Estimate, is_worth: bool | None, text: str) -> None:
    advice = advise(estimate)
    assert advice.is_worth is is_worth
    assert text in advice.sentence


def test_a_prompt_that_does_nothing_is_not_worth_trying_if_the_rows_suffice() -> None:
    """With the same answers on 500 rows, the interval lies within the allowed loss."""
    advice = advise(an_estimate(arms(400, 400, rows=500), rows=500))
    assert advice.is_worth is False
    assert "does as well today" in advice.sentence


@pytest.mark.parametrize("metric", [Metric.BLEU, Metric.CHRF, Metric.BASH_TEMPLATE])
def test_other_metrics(metric: Metric) -> None:
    accepted: Sequence[list[str]] = [[f"find . -name file{n}.txt -type f"] for n in range(40)]
    full = Answers(predictions=[each[0] for each in accepted], accepted=accepted)
    base = Answers(predictions=["ls -l somewhere else entirely"] * 40, accepted=accepted)
    prompt = compare_arms(metric, full, base, [str(n) for n in range(40)])
    assert prompt.full.value == pytest.approx(metric.largest)
    assert prompt.p_value < 0.001 and prompt.difference.value > 0
    assert advise(an_estimate(prompt, metric=metric)).is_worth


def test_rows_with_the_same_query_count_once() -> None:
    full, base = (Answers(predictions=[text] * 12, accepted=[["x"]] * 12) for text in "xy")
    assert compare_arms(Metric.EXACT_MATCH, full, base, ["the same"] * 12).p_value == 1.0
    assert compare_arms(Metric.EXACT_MATCH, full, base, ["the  same" + " " * n for n in range(12)]).p_value == 1.0
    assert compare_arms(Metric.EXACT_MATCH, full, base, [str(n) for n in range(12)]).p_value < 0.001
