"""From a trajectory to its rates."""

from promptintern.engine.checkpoint import Trajectory
from promptintern.engine.throughput import ParameterCounts, training_flops
from promptintern.pipeline.events import Speed
from promptintern.report.facts import SpeedFacts, TimeShares


def speed_of(trajectory: Trajectory, weights: ParameterCounts, *, peak: float | None) -> Speed:
    """The speed of a training of at least one step. What an older version did not note counts for no rate of it.

    Args:
        peak: FLOP/s of all devices together, if known.
    """
    seconds, timed = max(trajectory.seconds, 1e-9), sum(trajectory.spent.values())
    totals = trajectory.totals
    flops = training_flops(weights, computed=totals.computed, loss_tokens=totals.computed_loss_tokens)
    return Speed(
        examples=totals.rows / seconds,
        tokens=totals.tokens / seconds,
        computed=totals.computed / timed if timed else None,
        loss_tokens=totals.loss_tokens / seconds,
        mfu=flops / timed / peak if timed and peak else None,
        shares={part: spent / timed for part, spent in trajectory.spent.items()} if timed else {},
    )


def speed_facts(speed: Speed) -> SpeedFacts | None:
    """For the report; None if not all of it is known."""
    if speed.computed is None:
        return None
    return SpeedFacts(
        examples_per_second=speed.examples,
        tokens_per_second=speed.tokens,
        computed_tokens_per_second=speed.computed,
        loss_tokens_per_second=speed.loss_tokens,
        mfu=speed.mfu,
        time_shares=TimeShares(**speed.shares),
    )
