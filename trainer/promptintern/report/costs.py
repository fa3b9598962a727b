"""What an arm costs to serve, with and without a server that keeps the beginning of prompts, and when training pays."""

import math
from collections.abc import Sequence

from promptintern.report.facts import ArmFacts, PriceFacts, RunFacts
from promptintern.report.schema import ArmReport, TrainingCost

_MILLION = 1_000_000


def mean_of(tokens: Sequence[int]) -> float:
    """Return the mean of a list of token counts."""
    return sum(tokens) / len(tokens)


def cost_per_thousand(arm: ArmFacts, prices: PriceFacts, *, is_kept: bool) -> float:
    """Return the cost of 1,000 queries.

    Args:
        arm: The arm, with the tokens of its prompts and answers.
        prices: The prices of the served model.
        is_kept: Whether the server keeps the tokens with which all prompts of the arm begin, and bills them at the
            price of cached tokens. It keeps no beginning that is shorter than ``cacheable_from``.
    """
    kept = arm.shared_tokens if is_kept and arm.shared_tokens >= (prices.cacheable_from or 0) else 0
    price, kept_price = prices.input_per_million, prices.cached_input_per_million
    paid = kept * (price if kept_price is None else kept_price) + (mean_of(arm.prompt_tokens) - kept) * price
    return 1000 * (paid + mean_of(arm.answer_tokens) * prices.output_per_million) / _MILLION


def training_cost(facts: RunFacts, full: ArmReport, result: ArmReport | None) -> TrainingCost:
    """Return what the training of the stages took, and from how many queries on it pays."""
    seconds = _device_seconds(facts)
    prices = facts.prices
    if prices is None or prices.device_per_hour is None:
        return TrainingCost(device_seconds=seconds)
    cost = seconds / 3600 * prices.device_per_hour
    return TrainingCost(
        device_seconds=seconds,
        cost=cost,
        pays_from=pays_from(cost, full.cost_per_thousand, result.cost_per_thousand if result else None),
        pays_from_if_kept=pays_from(
            cost, full.kept_cost_per_thousand, result.kept_cost_per_thousand if result else None
        ),
    )


def _device_seconds(facts: RunFacts) -> float:
    """Return the seconds of all workers' devices in which the stages were trained and the teacher worked."""
    teacher = facts.teacher
    taught = teacher.answer_seconds + teacher.score_seconds if teacher else 0.0
    return (sum(stage.seconds for stage in facts.stages) + taught) * max(1, facts.job.workers)


def pays_from(cost: float, before: float | None, after: float | None) -> int | None:
    """Return the number of queries after which their savings exceed ``cost``; None if they save nothing."""
    if before is None or after is None or before <= after:
        return None
    return math.ceil(cost / ((before - after) / 1000))
