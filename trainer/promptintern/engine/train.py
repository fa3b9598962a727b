"""The training loop of one track, which runs planned steps and records them in a trajectory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from promptintern_api.training import TrainingSpec

from promptintern.engine import distributed
from promptintern.engine.adapter import Adapter
from promptintern.engine.backward import compute_gradients
from promptintern.engine.checkpoint import Trajectory
from promptintern.engine.lanes import lane_pool
from promptintern.engine.lr_schedule import learning_rate
from promptintern.engine.packing.layout import PackLayout, patched_for
from promptintern.engine.packing.planning import StepPlan
from promptintern.engine.seeding import mix
from promptintern.engine.throughput import activity_clock
from promptintern.errors import RunFailed
from promptintern.prompt.encode import Encoded


@dataclass(frozen=True, kw_only=True)
class LrSpan:
    """The place of a track's steps in the learning-rate schedule."""

    first: int
    """The number of steps in the schedule before the first step of this track."""
    total: int
    """The total number of steps in the schedule."""


@dataclass(frozen=True, kw_only=True)
class TrackTask:
    """The inputs to the training of one track."""

    name: str
    """The track's name in messages: ``stage 2/5`` or ``arm Direct``."""
    seed: tuple[int, ...]
    rows: Sequence[Encoded]
    steps: Sequence[StepPlan]
    layout: PackLayout
    lr_span: LrSpan


def train_track(
    adapter: Adapter,
    optimizer: torch.optim.AdamW,
    task: TrackTask,
    *,
    training: TrainingSpec,
    trajectory: Trajectory,
    device: torch.device,
    stop_requested: Callable[[], bool],
    after_step: Callable[[Trajectory], None],
) -> bool:
    """Run the steps of ``task`` that ``trajectory`` does not hold yet, and append them to ``trajectory``.

    All workers stop after the same step, because their stop requests are summed together with the loss of the step.

    Args:
        stop_requested: A function that returns whether this worker should stop after the current step.
        after_step: A function that is called with the trajectory after every step.

    Returns:
        True if the track is complete; False if it stopped because a worker requested a stop.

    Raises:
        RunFailed: if the loss is not finite, or the device has too little memory for a pack.
    """
    adapter.model.train()
    lanes = max((step.lanes for step in task.steps), default=1)
    with patched_for(adapter.model, task.layout), lane_pool(lanes) as pool:
        clock = activity_clock(device)
        for number in range(trajectory.steps, len(task.steps)):
            step = task.steps[number]
            # The seed depends only on the track, step and rank, so resuming does not need the state of a generator.
            torch.manual_seed(mix(*task.seed, number, distributed.rank()))
            try:
                loss, computed = compute_gradients(
                    adapter, task.rows, step, task.layout, pool=pool, device=device, clock=clock
                )
            except RunFailed as error:
                raise RunFailed(f"{task.name}: {error}") from None
            sums = torch.tensor([loss, float(stop_requested()), computed], dtype=torch.float64)
            distributed.all_reduce_sum(adapter.grad)
            distributed.all_reduce_sum(sums)
            if distributed.world_size() > 1:
                clock.record("exchange")
            mean = sums[0].item() / step.loss_tokens
            norm = adapter.grad_norm()
            if not (math.isfinite(mean) and math.isfinite(norm)):
                raise RunFailed(
                    f"{task.name}, step {number + 1}: the loss is {mean} and the gradient norm is {norm}; lower "
                    "training.learningRate, or train in float32 (model.dtype)"
                )
            rate = learning_rate(
                task.lr_span.first + number,
                task.lr_span.total,
                peak=training.learning_rate,
                warmup_ratio=training.warmup_ratio,
                schedule=training.lr_schedule,
            )
            adapter.grad.mul_(min(1.0, training.max_grad_norm / (norm + 1e-6)))
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            clock.record("optimizer")
            trajectory.add(
                loss=mean,
                grad_norm=norm,
                learning_rate=rate,
                tokens=step.tokens,
                loss_tokens=step.loss_tokens,
                rows=step.rows,
                computed=int(sums[2].item()),
            )
            trajectory.add_seconds(clock.collect())
            after_step(trajectory)
            clock.record("save")
            trajectory.add_seconds(clock.collect())
            if sums[1] > 0 and number + 1 < len(task.steps):
                return False
        return True
