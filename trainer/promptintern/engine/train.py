"""The training loop of one stage: planned packs in, trajectory out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from promptintern_api.training import TrainingSpec

from promptintern.engine import distributed
from promptintern.engine.adapter import Adapter
from promptintern.engine.backward import gradients
from promptintern.engine.checkpoint import Trajectory
from promptintern.engine.lanes import threads_of
from promptintern.engine.lr_schedule import learning_rate
from promptintern.engine.packing.layout import Layout, prepared
from promptintern.engine.packing.planning import StepPlan
from promptintern.engine.throughput import clock_of
from promptintern.errors import RunFailed
from promptintern.prompt.encode import Encoded


@dataclass(frozen=True, kw_only=True)
class Course:
    """Where a stage's steps lie in the learning rate's course."""

    first: int
    """Steps of the course before this stage."""
    total: int


@dataclass(frozen=True, kw_only=True)
class StageTask:
    """What one stage trains on."""

    name: str
    """For messages: ``stage 2`` or ``arm Direct``."""
    seed: tuple[int, ...]
    rows: Sequence[Encoded]
    steps: Sequence[StepPlan]
    layout: Layout
    course: Course


def train_stage(
    adapter: Adapter,
    optimizer: torch.optim.AdamW,
    task: StageTask,
    *,
    training: TrainingSpec,
    trajectory: Trajectory,
    device: torch.device,
    stop_requested: Callable[[], bool],
    after_step: Callable[[Trajectory], None],
) -> bool:
    """Train the steps of ``task`` that ``trajectory`` does not hold yet, and extend it.

    All workers take the same decision to stop: their wishes are summed with the step's loss.

    Returns:
        True if the stage is complete, False if a stop was asked for.

    Raises:
        RunFailed: if the loss is not finite, or the device has too little memory for a pack.
    """
    adapter.model.train()
    lanes = max((step.lanes for step in task.steps), default=1)
    with prepared(adapter.model, task.layout), threads_of(lanes) as threads:
        clock = clock_of(device)
        for number in range(trajectory.steps, len(task.steps)):
            step = task.steps[number]
            # Seeded by where the run stands, so that resuming needs no generator state.
            torch.manual_seed(_mix(*task.seed, number, distributed.rank()))
            try:
                loss, computed = gradients(
                    adapter, task.rows, step, task.layout, threads=threads, device=device, clock=clock
                )
            except RunFailed as error:
                raise RunFailed(f"{task.name}: {error}") from None
            sums = torch.tensor([loss, float(stop_requested()), computed], dtype=torch.float64)
            distributed.all_reduce_sum(adapter.grad)
            distributed.all_reduce_sum(sums)
            if distributed.world_size() > 1:
                clock.lap("exchange")
            mean = sums[0].item() / step.loss_tokens
            norm = adapter.grad_norm()
            if not (math.isfinite(mean) and math.isfinite(norm)):
                raise RunFailed(
                    f"{task.name}, step {number + 1}: the loss is {mean} and the gradient's norm {norm}; lower "
                    "training.learningRate, or train in float32 (model.dtype)"
                )
            rate = learning_rate(
                task.course.first + number,
                task.course.total,
                peak=training.learning_rate,
                warmup_ratio=training.warmup_ratio,
                schedule=training.lr_schedule,
            )
            adapter.grad.mul_(min(1.0, training.max_grad_norm / (norm + 1e-6)))
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            clock.lap("optimizer")
            trajectory.add(
                loss=mean,
                grad_norm=norm,
                learning_rate=rate,
                tokens=step.tokens,
                loss_tokens=step.loss_tokens,
                rows=step.rows,
                computed=int(sums[2].item()),
            )
            trajectory.spend(clock.take())
            after_step(trajectory)
            clock.lap("save")
            trajectory.spend(clock.take())
            if sums[1] > 0 and number + 1 < len(task.steps):
                return False
        return True


def _mix(*numbers: int) -> int:
    """One seed from several numbers (FNV-1a, 64 bits)."""
    state = 0xCBF29CE484222325
    for number in numbers:
        for byte in number.to_bytes(8, "little"):
            state = ((state ^ byte) * 0x100000001B3) % 2**64
    return state
