"""Planning of steps and packs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.engine.packs import Length, StepPlan, plan_steps

LENGTHS = st.lists(
    st.builds(lambda p, a: Length(prompt=p, answer=a), st.integers(1, 60), st.integers(1, 20)),
    min_size=1,
    max_size=60,
)


def plan(lengths: list[Length], **changes: object) -> list[StepPlan]:
    settings: dict[str, object] = {
        "seed": (0, 0),
        "epochs": 1,
        "tokens_per_batch": 200,
        "rows_per_batch": None,
        "tokens_per_pack": 100,
        "pack": True,
        "world_size": 1,
    }
    return plan_steps(lengths, **(settings | changes))  # type: ignore[arg-type]


def rows_of(step: StepPlan) -> list[int]:
    return sorted(row for share in step.workers for pack in share for row in pack.rows)


@given(LENGTHS, st.integers(1, 4), st.integers(1, 3), st.integers(16, 200), st.integers(0, 5))
def test_every_row_is_trained_once_an_epoch(
    lengths: list[Length], world_size: int, epochs: int, tokens_per_pack: int, seed: int
) -> None:
    steps = plan(lengths, world_size=world_size, epochs=epochs, tokens_per_pack=tokens_per_pack, seed=(seed, 1))
    seen = [row for step in steps for row in rows_of(step)]
    assert sorted(seen) == sorted(list(range(len(lengths))) * epochs)


@given(LENGTHS, st.integers(1, 4), st.integers(16, 200), st.booleans())
def test_steps_do_not_depend_on_workers_or_packs(
    lengths: list[Length], world_size: int, tokens_per_pack: int, pack: bool
) -> None:
    reference = plan(lengths)
    other = plan(lengths, world_size=world_size, tokens_per_pack=tokens_per_pack, pack=pack)
    assert [rows_of(step) for step in other] == [rows_of(step) for step in reference]
    assert [(s.rows, s.tokens, s.loss_tokens) for s in other] == [(s.rows, s.tokens, s.loss_tokens) for s in reference]


@given(LENGTHS, st.integers(16, 300), st.one_of(st.none(), st.integers(1, 7)), st.integers(16, 120))
def test_limits_hold_except_for_a_row_that_is_longer_itself(
    lengths: list[Length], tokens_per_batch: int, rows_per_batch: int | None, tokens_per_pack: int
) -> None:
    steps = plan(
        lengths,
        tokens_per_batch=tokens_per_batch,
        rows_per_batch=rows_per_batch,
        tokens_per_pack=tokens_per_pack,
    )
    for step in steps:
        assert step.tokens <= tokens_per_batch or step.rows == 1
        assert rows_per_batch is None or step.rows <= rows_per_batch
        for pack in step.workers[0]:
            assert pack.tokens == sum(lengths[row].total for row in pack.rows)
            assert pack.loss_tokens == sum(lengths[row].answer for row in pack.rows)
            assert pack.tokens <= tokens_per_pack or len(pack.rows) == 1
        assert step.loss_tokens == sum(pack.loss_tokens for pack in step.workers[0])


@given(LENGTHS, st.integers(2, 4))
def test_no_worker_has_a_pack_more_than_it_needs_for_balance(lengths: list[Length], world_size: int) -> None:
    for step in plan(lengths, world_size=world_size, pack=False):
        loads = [sum(pack.tokens for pack in share) for share in step.workers]
        largest = max((pack.tokens for share in step.workers for pack in share), default=0)
        # Largest-first list scheduling: no load passes the mean by more than one pack.
        assert max(loads) <= sum(loads) / world_size + largest


def test_packing_off_gives_every_row_its_own_pack() -> None:
    steps = plan([Length(prompt=3, answer=2)] * 7, pack=False)
    assert all(len(pack.rows) == 1 for step in steps for share in step.workers for pack in share)


def test_epochs_and_seeds_shuffle_differently() -> None:
    lengths = [Length(prompt=3, answer=2)] * 40
    order = [rows_of(step) for step in plan(lengths, rows_per_batch=5, epochs=2)]
    assert order[:8] != order[8:]
    assert order != [rows_of(step) for step in plan(lengths, rows_per_batch=5, epochs=2, seed=(1, 0))]
    assert order == [rows_of(step) for step in plan(lengths, rows_per_batch=5, epochs=2)]


@pytest.mark.parametrize("world_size", [1, 3])
def test_more_workers_than_packs_leaves_some_idle(world_size: int) -> None:
    (step,) = plan([Length(prompt=3, answer=2)], world_size=world_size)
    assert sorted(len(share) for share in step.workers) == [0] * (world_size - 1) + [1]
