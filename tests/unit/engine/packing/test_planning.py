"""Planning of steps and packs."""

from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.engine.attention.prefix_tree import Prefixes
from promptintern.engine.packing.forward import prefix_tree_of
from promptintern.engine.packing.planning import Length, StepPlan, largest_divisor, plan_steps

from tests.unit.engine.rows import encoded

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


@given(LENGTHS, st.integers(1, 3), st.integers(1, 4), st.integers(16, 120), st.integers(1, 60))
def test_lanes_share_all_packs_that_fit_evenly(
    lengths: list[Length], world_size: int, lanes: int, capacity: int, least: int
) -> None:
    with mock.patch("promptintern.engine.packing.planning._MIN_LANE_TOKENS", least):
        steps = plan(
            lengths,
            world_size=world_size,
            lanes=lanes,
            tokens_per_pack=capacity * lanes,
            min_prefix_savings=20,
            prefixes=Prefixes([[0] * length.prompt for length in lengths]),
        )
    assert [rows_of(step) for step in steps] == [rows_of(step) for step in plan(lengths)]
    for step in steps:
        for rank, share in enumerate(step.workers):
            serial, shares = step.split_by_lane(rank)
            assert sorted(p.rows for p in (*serial, *(p for lane in shares for p in lane))) == sorted(
                p.rows for p in share
            )
            assert len(shares) != 1
            assert len(shares) <= lanes
            assert all(lane for lane in shares)
            assert all(pack.computed <= capacity for lane in shares for pack in lane)
            small = [pack for pack in serial if pack.computed <= capacity]
            if shares:
                assert sum(map(len, shares)) % len(shares) == 0
                assert len(small) < len(shares)
                assert all(pack.computed <= min(p.computed for lane in shares for p in lane) for pack in small)
            else:
                assert largest_divisor(lanes, len(small)) == 1


def rows_with_one_prefix(rows: int, tokens: int) -> tuple[list[Length], Prefixes]:
    """Return ``rows`` rows with a common prefix of 1,000 tokens and ``tokens`` tokens of their own each."""
    prompts = [[*range(1000), *range(10_000 + 1000 * row, 10_000 + 1000 * row + tokens - 1)] for row in range(rows)]
    return [Length(prompt=len(prompt), answer=1) for prompt in prompts], Prefixes(prompts)


@pytest.mark.parametrize(
    ("rows", "tokens", "lanes", "serial", "packs_per_lane"),
    [
        (16, 100, 2, 0, [1, 1]),  # one pack would hold them
        (16, 10, 2, 1, []),  # too little for two
        (6, 500, 2, 1, [1, 1]),  # two rows a pack
        (4, 100, 8, 1, []),
        (4, 400, 8, 0, [1, 1, 1, 1]),
        (3, 1500, 2, 3, []),  # longer than a pack
    ],
)
def test_small_steps_have_fewer_lanes_and_an_odd_pack_is_computed_separately(
    rows: int, tokens: int, lanes: int, serial: int, packs_per_lane: list[int]
) -> None:
    lengths, prefixes = rows_with_one_prefix(rows, tokens)
    (step,) = plan(
        lengths,
        tokens_per_batch=2**20,
        tokens_per_pack=1024 * lanes,
        lanes=lanes,
        prefixes=prefixes,
        min_prefix_savings=256,
    )
    serial_packs, shares = step.split_by_lane(0)
    assert (len(serial_packs), [len(lane) for lane in shares]) == (serial, packs_per_lane)


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


PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=40), st.integers(1, 6)), min_size=1, max_size=40
)
"""Prompts over two tokens, which follow a template of 30, and the number of answer tokens of each."""


def plan_sharing(rows: list[tuple[list[int], int]], **changes: object) -> tuple[list[list[int]], list[StepPlan]]:
    prompts = [[7] * 30 + prompt for prompt, _ in rows]
    lengths = [Length(prompt=len(prompt), answer=rows[i][1]) for i, prompt in enumerate(prompts)]
    return prompts, plan(lengths, tokens_per_batch=900, prefixes=Prefixes(prompts), **changes)


@given(PROMPTS, st.integers(1, 3), st.integers(40, 300))
def test_sharing_changes_packs_and_no_steps(
    rows: list[tuple[list[int], int]], world_size: int, tokens_per_pack: int
) -> None:
    prompts, steps = plan_sharing(rows, world_size=world_size, tokens_per_pack=tokens_per_pack)
    plain = plan(
        [Length(prompt=len(p), answer=a) for p, (_, a) in zip(prompts, rows, strict=True)], tokens_per_batch=900
    )
    assert [rows_of(step) for step in steps] == [rows_of(step) for step in plain]
    assert [(s.rows, s.tokens, s.loss_tokens) for s in steps] == [(s.rows, s.tokens, s.loss_tokens) for s in plain]


SAVES = st.one_of(st.none(), st.integers(1, 120))


@given(PROMPTS, st.integers(1, 3), st.integers(40, 300), st.integers(1, 200), SAVES)
def test_no_pack_exceeds_its_capacity_when_little_is_shared(
    rows: list[tuple[list[int], int]],
    world_size: int,
    tokens_per_pack: int,
    min_node_savings: int,
    min_prefix_savings: int | None,
) -> None:
    prompts, steps = plan_sharing(
        rows,
        world_size=world_size,
        tokens_per_pack=tokens_per_pack,
        min_node_savings=min_node_savings,
        min_prefix_savings=min_prefix_savings,
    )
    for prefix_tokens, pack in (
        (step.prefix_tokens, pack) for step in steps for share in step.workers for pack in share
    ):
        assert pack.computed <= tokens_per_pack or len(pack.rows) == 1
        encoded_rows = [encoded(prompts[row], [1] * rows[row][1]) for row in pack.rows]
        tree = prefix_tree_of(
            encoded_rows, share_prefixes=True, min_node_savings=min_node_savings, prefix_tokens=prefix_tokens
        )
        assert pack.computed == tree.tokens
    assert sorted(row for step in steps for row in rows_of(step)) == list(range(len(rows)))


@given(PROMPTS, st.integers(1, 3), st.integers(40, 300))
def test_a_packs_computed_tokens_are_those_of_its_tree(
    rows: list[tuple[list[int], int]], world_size: int, tokens_per_pack: int
) -> None:
    prompts, steps = plan_sharing(rows, world_size=world_size, tokens_per_pack=tokens_per_pack)
    for step in steps:
        packs = [pack for share in step.workers for pack in share]
        assert step.computed == sum(pack.computed for pack in packs)
        for pack in packs:
            assert pack.computed <= tokens_per_pack or len(pack.rows) == 1
            shared = {tuple(prompts[row][:i]) for row in pack.rows for i in range(1, len(prompts[row]))}
            own = sum(rows[row][1] for row in pack.rows)  # a prompt's last token, and the answer but for its last
            assert pack.computed == len(shared) + own


@given(PROMPTS, st.integers(1, 3), st.integers(40, 300), st.integers(1, 120))
def test_the_shared_prefix_is_common_to_all_rows_of_a_step_and_saves_enough(
    rows: list[tuple[list[int], int]], world_size: int, tokens_per_pack: int, min_prefix_savings: int
) -> None:
    changes = {"world_size": world_size, "tokens_per_pack": tokens_per_pack}
    prompts, steps = plan_sharing(rows, **changes, min_prefix_savings=min_prefix_savings)
    _, without = plan_sharing(rows, **changes)
    assert [rows_of(step) for step in steps] == [rows_of(step) for step in without]
    for step, plain in zip(steps, without, strict=True):
        begin = [tuple(prompts[row][:-1]) for row in rows_of(step)]
        common = next(n for n in range(len(begin[0]), -1, -1) if all(b[:n] == begin[0][:n] for b in begin))
        twice = max(len(share) for share in plain.workers) - 1
        assert step.prefix_tokens == (common if common * twice >= min_prefix_savings else 0)
        packs = [sum(pack.computed for pack in share) for share in step.workers]
        assert step.computed == sum(packs) + step.prefix_tokens * sum(bool(each) for each in packs)


def test_every_worker_has_the_same_number_of_masked_packs() -> None:
    lengths = [Length(prompt=5 + n % 7, answer=1 + n % 4) for n in range(40)]
    changes = {"tokens_per_batch": 600, "tokens_per_pack": 600}
    assert [len(share) for share in plan(lengths, **changes)[0].workers] == [1], "they would all fit into one"
    for world_size in (2, 3):
        (step,) = plan(lengths, world_size=world_size, **changes)
        loads = [sum(pack.computed for pack in share) for share in step.workers]
        assert max(loads) < 1.1 * min(loads)


def test_every_worker_has_the_same_number_of_prefix_tree_packs_of_about_one_size() -> None:
    rows = [([n % 2] * (5 + n % 7) + [1, 0] * (n % 5), 1 + n % 4) for n in range(40)]
    for world_size in (2, 3):
        _, steps = plan_sharing(rows, world_size=world_size, tokens_per_pack=150, rows_per_batch=20)
        for step in steps:
            assert len({len(share) for share in step.workers}) == 1
            loads = [sum(pack.computed for pack in share) for share in step.workers]
            assert max(loads) < 1.25 * min(loads)


def test_rows_with_one_template_compute_it_once() -> None:
    rows = [([n % 2, *[1] * n], 2) for n in range(8)]
    _, (step,) = plan_sharing(rows, tokens_per_pack=900)
    ((pack,),) = step.workers
    assert pack.computed < 30 + sum(len(prompt) + answer for prompt, answer in rows)
    assert pack.tokens == sum(30 + len(prompt) + answer for prompt, answer in rows)
