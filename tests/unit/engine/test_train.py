"""The training loop: workers, packs and interruptions must not change the steps."""

import copy

import pytest
import torch
from promptintern.engine.adapter import Adapter, attach_lora
from promptintern.engine.attention.prefix_tree import Prefixes
from promptintern.engine.checkpoint import Trajectory, apply_state, new_optimizer, snapshot
from promptintern.engine.packing.layout import PackLayout
from promptintern.engine.packing.planning import plan_steps
from promptintern.engine.train import LrSpan, TrackTask, train_track
from promptintern.errors import RunFailed
from promptintern.pipeline.inputs import length_of
from promptintern.prompt.encode import Encoded
from promptintern_api.training import Lora, TrainingSpec

from tests.tiny import tiny_model
from tests.unit.engine.rows import random_family

CPU = torch.device("cpu")
TRAINING = TrainingSpec(learning_rate=5e-3, warmup_ratio=0.1)


def rows(count: int = 12) -> list[Encoded]:
    return random_family(7, count, template=8, longest=6)


def task_of(
    encoded: list[Encoded],
    *,
    tokens_per_pack: int = 64,
    epochs: int = 2,
    layout: PackLayout = PackLayout.PREFIX_TREE,
    lanes: int = 1,
) -> TrackTask:
    steps = plan_steps(
        [length_of(row) for row in encoded],
        seed=(0, 0),
        epochs=epochs,
        tokens_per_batch=256,
        rows_per_batch=4,
        tokens_per_pack=tokens_per_pack,
        pack=layout.is_packed,
        world_size=1,
        lanes=lanes,
        prefixes=Prefixes([row.prompt_ids for row in encoded]) if layout is PackLayout.PREFIX_TREE else None,
        min_prefix_savings=4,
    )
    lr_span = LrSpan(first=0, total=len(steps))
    return TrackTask(name="stage 1/1", seed=(0, 0), rows=encoded, steps=steps, layout=layout, lr_span=lr_span)


def fresh(dropout: float = 0.0) -> Adapter:
    return attach_lora(tiny_model("llama"), Lora(r=4, alpha=8, dropout=dropout), seed=0)


def train(adapter: Adapter, task: TrackTask, *, stop_after: int | None = None, **state: object) -> Trajectory:
    trajectory = state.get("trajectory") or Trajectory()
    optimizer = state.get("optimizer") or new_optimizer(adapter, weight_decay=0.01)
    assert isinstance(trajectory, Trajectory)
    assert isinstance(optimizer, torch.optim.AdamW)
    train_track(
        adapter,
        optimizer,
        task,
        training=TRAINING,
        trajectory=trajectory,
        device=CPU,
        stop_requested=lambda: stop_after is not None and trajectory.steps + 1 >= stop_after,
        after_step=lambda _trajectory: None,
    )
    return trajectory


def test_training_lowers_the_loss() -> None:
    trajectory = train(fresh(), task_of(rows(), epochs=20))
    assert trajectory.loss[-1] < 0.7 * trajectory.loss[0]


@pytest.mark.parametrize("layout", [PackLayout.UNPACKED, PackLayout.MASKED, PackLayout.VARLEN])
@pytest.mark.parametrize("tokens_per_pack", [200, 20])
def test_packs_do_not_change_the_trajectory(layout: PackLayout, tokens_per_pack: int) -> None:
    task = task_of(rows(), tokens_per_pack=tokens_per_pack)
    assert all(step.prefix_tokens >= 8 for step in task.steps) == (tokens_per_pack == 20)
    assert any(step.prefix_tokens for step in task.steps) == (tokens_per_pack == 20)
    one = train(fresh(), task)
    other = train(fresh(), task_of(rows(), tokens_per_pack=16, layout=layout))
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
    assert (one.tokens, one.loss_tokens, one.rows) == (other.tokens, other.loss_tokens, other.rows)


@pytest.mark.parametrize("lanes", [2, 3])
def test_lanes_do_not_change_the_trajectory(lanes: int) -> None:
    one = train(fresh(), task_of(rows()))
    other = train(fresh(), task_of(rows(), tokens_per_pack=20 * lanes, lanes=lanes))
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
    assert set(other.spent) == {"data", "forward", "backward", "optimizer", "save"}
    assert sum(other.spent.values()) == pytest.approx(other.seconds)


@pytest.mark.parametrize(("dropout", "lanes"), [(0.0, 1), (0.0, 2), (0.1, 1)])
@pytest.mark.parametrize("at", [1, 3])
def test_stop_and_resume_is_bit_identical(dropout: float, lanes: int, at: int) -> None:
    layout = PackLayout.VARLEN if dropout else PackLayout.PREFIX_TREE
    task = task_of(rows(), tokens_per_pack=20 * lanes, layout=layout, lanes=lanes)
    assert all(step.prefix_tokens for step in task.steps) == (not dropout)
    straight = fresh(dropout)
    whole = train(straight, task)

    first = fresh(dropout)
    optimizer = new_optimizer(first, weight_decay=0.01)
    part = train(first, task, optimizer=optimizer, stop_after=at)
    assert part.steps == at
    saved = copy.deepcopy(snapshot(first, optimizer))

    second = fresh(dropout)
    second_optimizer = new_optimizer(second, weight_decay=0.01)
    apply_state(saved, second, second_optimizer)
    rest = train(second, task, optimizer=second_optimizer, trajectory=part)
    assert torch.equal(second.flat, straight.flat)
    assert rest.loss == whole.loss


@pytest.mark.parametrize("layout", [PackLayout.UNPACKED, PackLayout.PREFIX_TREE])
def test_computed_tokens_and_seconds_are_recorded(layout: PackLayout) -> None:
    encoded = rows()
    trajectory = train(fresh(), task_of(encoded, epochs=1, layout=layout))
    assert len(trajectory.computed) == trajectory.steps
    whole = sum(trajectory.tokens) - len(encoded)  # a row's last token predicts nothing
    if layout is PackLayout.UNPACKED:
        assert sum(trajectory.computed) == whole
    else:
        assert sum(trajectory.loss_tokens) < sum(trajectory.computed) < whole
    assert set(trajectory.spent) == {"data", "forward", "backward", "optimizer", "save"}
    assert sum(trajectory.spent.values()) == pytest.approx(trajectory.seconds)


def test_a_loss_that_is_not_finite_ends_the_run_with_advice() -> None:
    adapter = fresh()
    adapter.load_flat(torch.full_like(adapter.flat, float("nan")))
    with pytest.raises(RunFailed, match=r"stage 1/1, step 1.*learningRate"):
        train(adapter, task_of(rows()))
