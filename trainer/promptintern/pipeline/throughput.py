"""Computes the throughput of a track from the trajectory of its training."""

from promptintern_api.training_status import TimeShares

from promptintern.engine.checkpoint import Trajectory
from promptintern.engine.throughput import ParameterCounts, training_flops
from promptintern.stage_record import Throughput


def throughput_of(trajectory: Trajectory, parameters: ParameterCounts, *, peak: float | None) -> Throughput:
    """Return the training throughput of a track, whose trajectory must have at least one optimizer step.

    Args:
        peak: The peak FLOP/s of all devices in total, or None if it is unknown.
    """
    seconds, timed = max(trajectory.seconds, 1e-9), sum(trajectory.spent.values())
    totals = trajectory.totals
    flops = training_flops(parameters, computed=totals.computed, loss_tokens=totals.loss_tokens)
    return Throughput(
        examples_per_second=totals.rows / seconds,
        tokens_per_second=totals.tokens / seconds,
        computed_tokens_per_second=totals.computed / timed if timed else None,
        loss_tokens_per_second=totals.loss_tokens / seconds,
        mfu=flops / timed / peak if timed and peak else None,
        time_shares=TimeShares(**{activity: spent / timed for activity, spent in trajectory.spent.items()})
        if timed
        else None,
    )
