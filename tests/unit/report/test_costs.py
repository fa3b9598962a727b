"""The cost of serving with and without kept beginnings, and the number of queries from which training pays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.report.build import build_report
from promptintern.report.costs import cost_per_thousand
from promptintern.report.facts import ArmFacts, PriceFacts, RunFacts

from tests.unit.report.figures import facts


def an_arm(prompt: list[int], *, shared: int, answer: int = 10) -> ArmFacts:
    return ArmFacts(
        name="any",
        predictions=["x"] * len(prompt),
        prompt_tokens=prompt,
        answer_tokens=[answer] * len(prompt),
        shared_tokens=shared,
    )


def prices(**more: float | None) -> PriceFacts:
    return PriceFacts.model_validate({"inputPerMillion": 2, "outputPerMillion": 8, "currency": "USD", **more})


@pytest.mark.parametrize(
    ("more", "cost"),
    [
        ({}, 2.48),  # 1,000 x (1,200 x 2 + 10 x 8) / 1,000,000
        ({"cachedInputPerMillion": 0.5}, 0.98),  # 1,000 of the tokens at 0.5
        ({"cachedInputPerMillion": 0.5, "cacheableFrom": 1000}, 0.98),
        ({"cachedInputPerMillion": 0.5, "cacheableFrom": 1024}, 2.48),
        ({"cachedInputPerMillion": 0}, 0.48),
    ],
)
def test_kept_tokens_are_billed_at_their_price(more: dict[str, float], cost: float) -> None:
    arm = an_arm([1100, 1300], shared=1000)
    assert cost_per_thousand(arm, prices(**more), is_kept=True) == pytest.approx(cost)
    assert cost_per_thousand(arm, prices(**more), is_kept=False) == pytest.approx(2.48)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8), st.floats(0, 2), st.integers(0, 5000))
def test_keeping_never_costs_more_if_kept_tokens_are_cheaper(prompt: list[int], price: float, least: int) -> None:
    arm, all_prices = an_arm(prompt, shared=min(prompt) - 1), prices(cachedInputPerMillion=price, cacheableFrom=least)
    kept = cost_per_thousand(arm, all_prices, is_kept=True)
    assert kept <= cost_per_thousand(arm, all_prices, is_kept=False) + 1e-9


def _run(**more: float | None) -> RunFacts:
    run = facts()
    arms = [arm.model_copy(update={"shared_tokens": 60 if arm.name == "FullPrompt" else 0}) for arm in run.arms]
    return run.model_copy(update={"arms": arms, "prices": prices(**more)})


def test_training_pays_once_its_cost_is_saved() -> None:
    run = _run(devicePerHour=36.0, cachedInputPerMillion=0.2)
    report = build_report(run)
    training = report.training
    seconds = sum(stage.seconds for stage in run.stages) * max(1, run.job.workers)
    assert training.device_seconds == pytest.approx(seconds)
    assert training.cost == pytest.approx(seconds / 100)
    full, result = report.arms[0], report.arm("QueryOnly")
    assert result is not None
    assert full.cost_per_thousand is not None and result.cost_per_thousand is not None
    assert training.pays_from is not None and training.cost is not None
    saved = (full.cost_per_thousand - result.cost_per_thousand) / 1000
    assert (training.pays_from - 1) * saved < training.cost <= training.pays_from * saved * (1 + 1e-9)
    assert training.pays_from_if_kept is not None
    assert training.pays_from_if_kept > training.pays_from, "a server that keeps the prompt saves less"


def test_without_a_price_of_devices_only_the_time_is_told() -> None:
    training = build_report(_run()).training
    assert training.device_seconds > 0
    assert training.cost is training.pays_from is training.pays_from_if_kept is None


def test_the_gain_shrinks_if_the_server_keeps_the_beginning() -> None:
    savings = build_report(_run()).savings
    assert savings is not None
    assert savings.computed_tokens < savings.prompt_tokens
