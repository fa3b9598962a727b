"""Planning: which rows make a step, which rows share a pack, which worker takes which pack. Pure and deterministic."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from promptintern.engine.attention.prefix_tree import Prefixes, plant
from promptintern.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """Tokens of one encoded row."""

    prompt: int
    answer: int
    """With the end token; the number of positions that have a loss."""

    @property
    def total(self) -> int:
        return self.prompt + self.answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Rows that go through the model in one forward and backward pass, in this order."""

    rows: tuple[int, ...]
    tokens: int
    """Of the rows."""
    computed: int
    """Tokens that go through the model: each shared one once, no row's last, which predicts nothing."""
    loss_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """One optimizer step: a list of packs for every worker (a list may be empty)."""

    workers: tuple[tuple[Pack, ...], ...]
    """The largest pack of each first."""
    lanes: int
    """Packs that a worker computes at a time, at most."""
    capacity: int
    """Tokens of a pack; a longer row is one by itself."""
    trunk: int
    """Tokens that all rows begin with and no pack holds, computed once by every worker that has packs."""
    rows: int
    tokens: int
    computed: int
    loss_tokens: int
    """Over all workers; the loss is the sum over answer tokens divided by this."""

    def at_a_time(self, rank: int) -> int:
        """Packs that a worker computes at a time."""
        return largest_divisor(self.lanes, sum(pack.computed <= self.capacity for pack in self.workers[rank]))

    def parts(self, rank: int) -> tuple[tuple[Pack, ...], tuple[tuple[Pack, ...], ...]]:
        """A worker's packs that go through the model one by one, and of several lanes, if there are, each one's.

        One by one go rows that are longer than a pack, of which several at a time would take memory that nobody
        planned for, and the smallest packs where their number is no multiple of the lanes.
        """
        packs, lanes = self.workers[rank], self.at_a_time(rank)
        if lanes == 1:
            return packs, ()
        long = sum(pack.computed > self.capacity for pack in packs)
        odd = len(packs) - (len(packs) - long) % lanes
        return (*packs[:long], *packs[odd:]), dealt(packs[long:odd], lanes)


_LEAST_EACH = 256
"""Tokens that a step has to have for every lane: a pack costs besides its tokens what some 130 of them take."""


def plan_steps(
    lengths: Sequence[Length],
    *,
    seed: Sequence[int],
    epochs: int,
    tokens_per_batch: int,
    rows_per_batch: int | None,
    tokens_per_pack: int,
    pack: bool,
    world_size: int,
    lanes: int = 1,
    prefixes: Prefixes | None = None,
    least_saved: int = 1,
    trunk_saves: int | None = None,
) -> list[StepPlan]:
    """All steps of a stage.

    Which rows make a step depends on ``lengths``, ``seed``, ``epochs`` and the two batch limits only, so a run with
    other workers or other packs takes the same steps. An epoch's last step may be smaller; no step crosses epochs.

    Args:
        lengths: Of every row, by row index.
        seed: Numbers that name the shuffles; the epoch is added.
        epochs: Passes over the rows.
        tokens_per_batch: Tokens of a step, prompts and answers; a longer row makes a step of its own.
        rows_per_batch: Rows of a step at most, or None.
        tokens_per_pack: Computed tokens of all packs at a time; a row that is too long for one makes a pack of its own.
        pack: False puts every row into a pack of its own.
        world_size: Workers.
        lanes: Packs that a worker computes at a time; those of a small step are fewer.
        prefixes: Of the rows' prompts, if packs share what prompts have in common.
        least_saved: Tokens that a shared node has to save to be one, as packs are put together later.
        trunk_saves: Tokens that what all rows of a step begin with has to save a worker to be computed apart from its
            packs; None if it never is.
    """
    steps = []
    capacity = tokens_per_pack // lanes
    for epoch in range(epochs):
        order = np.random.default_rng([*seed, epoch]).permutation(len(lengths)).tolist()
        for batch in _batches(order, lengths, tokens_per_batch=tokens_per_batch, rows_per_batch=rows_per_batch):
            trunk = 0
            if prefixes and pack:
                trunk, packs = _sharing_packs(
                    batch,
                    lengths,
                    prefixes,
                    capacity=capacity,
                    world_size=world_size,
                    lanes=lanes,
                    least_saved=least_saved,
                    trunk_saves=trunk_saves,
                )
            else:
                packs = _packs(batch, lengths, capacity=capacity if pack else 0, world_size=world_size)
            workers = dealt(packs, world_size)
            steps.append(
                StepPlan(
                    workers=workers,
                    lanes=lanes,
                    capacity=capacity,
                    trunk=trunk,
                    rows=len(batch),
                    tokens=sum(p.tokens for p in packs),
                    computed=sum(p.computed for p in packs) + trunk * sum(bool(share) for share in workers),
                    loss_tokens=sum(p.loss_tokens for p in packs),
                )
            )
    return steps


def _batches(
    order: Sequence[int], lengths: Sequence[Length], *, tokens_per_batch: int, rows_per_batch: int | None
) -> Iterator[list[int]]:
    batch: list[int] = []
    tokens = 0
    for row in order:
        full = tokens + lengths[row].total > tokens_per_batch or len(batch) == rows_per_batch
        if batch and full:
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += lengths[row].total
    if batch:
        yield batch


def _packs(batch: Sequence[int], lengths: Sequence[Length], *, capacity: int, world_size: int) -> list[Pack]:
    """Longest rows first, and about as many packs for every worker, so that none waits for another."""
    sizes = {row: lengths[row].total for row in sorted(batch, key=lambda r: (-lengths[r].total, r))}
    packs = _first_fit(sizes, capacity)
    wanted = _for_all(len(packs), world_size, rows=len(batch))
    if len(packs) < wanted:
        packs = _first_fit(sizes, _smallest(capacity, lambda each: len(_first_fit(sizes, each)) <= wanted))
    return [_pack(rows, lengths, computed=sum(lengths[r].total - 1 for r in rows)) for rows in packs]


def _first_fit(sizes: Mapping[int, int], capacity: int) -> list[list[int]]:
    """Rows in the order that they are given in, each in the first pack with room for it."""
    bins: list[list[int]] = []
    room: list[int] = []
    for row, size in sizes.items():
        place = next((i for i, free in enumerate(room) if free >= size), None)
        if place is None:
            bins.append([row])
            room.append(capacity - size)
        else:
            bins[place].append(row)
            room[place] -= size
    return bins


def _for_all(packs: int, takers: int, *, rows: int) -> int:
    """So many packs or a few more, that all takers have as many; at most one for every row."""
    return min(-(-packs // takers) * takers, rows)


def _smallest(most: int, is_enough: Callable[[int], bool]) -> int:
    """The smallest number that ``is_enough``, of those up to ``most``, which is."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _sharing_packs(
    batch: Sequence[int],
    lengths: Sequence[Length],
    prefixes: Prefixes,
    *,
    capacity: int,
    world_size: int,
    lanes: int,
    least_saved: int,
    trunk_saves: int | None,
) -> tuple[int, list[Pack]]:
    """A trunk's tokens, and rows that begin alike side by side, cut into as few packs as hold them, of about one size.

    There is a trunk if it saves enough in all packs of a worker but one. There are packs for all lanes that have enough
    to do, and a multiple of them where rows can be cut so, lest one waits for another. They are cut as if whatever rows
    have in common were shared; where too little of it is, a pack that is too large is halved.
    """
    rows = prefixes.sort(batch)
    sizes = [lengths[row].total for row in rows]
    common = [0, *(prefixes.common(a, b) for a, b in pairwise(rows))]
    trunk = min(common[1:], default=0)
    lanes = largest_divisor(lanes, (sum(sizes) - sum(common) - trunk) // (world_size * _LEAST_EACH))
    without = len(_cut(sizes, common, capacity))
    if trunk_saves is None or trunk * (max(-(-without // world_size), lanes) - 1) < trunk_saves:
        trunk = 0
    below = [size - trunk for size in sizes], [max(0, tokens - trunk) for tokens in common]
    wanted = _for_all(len(_cut(*below, capacity)), world_size * lanes, rows=len(rows))
    ranges = _cut(*below, _smallest(capacity, lambda each: len(_cut(*below, each)) <= wanted))[::-1]
    packs = []
    while ranges:
        start, stop = ranges.pop()
        some = rows[start:stop]
        computed = _computed(some, lengths, common[start + 1 : stop], least_saved=least_saved, trunk=trunk)
        if computed > capacity and len(some) > 1:
            middle = (start + stop) // 2
            ranges += [(middle, stop), (start, middle)]
        else:
            packs.append(_pack(some, lengths, computed=computed))
    return trunk, packs


def _computed(
    rows: Sequence[int], lengths: Sequence[Length], common: Sequence[int], *, least_saved: int, trunk: int
) -> int:
    """Tokens of the tree that ``rows`` become."""
    prompts = [lengths[row].prompt for row in rows]
    inputs = [lengths[row].total - 1 for row in rows]
    return plant(common, prompts, inputs, least_saved=least_saved, trunk=trunk).tokens


def _cut(sizes: Sequence[int], common: Sequence[int], capacity: int) -> list[tuple[int, int]]:
    """Ranges of rows in order, each filled up to ``capacity``; the first row of a range shares nothing."""
    edges, filled = [0], 0
    for i, size in enumerate(sizes):
        more = size - common[i] if i > edges[-1] else size
        if i > edges[-1] and filled + more > capacity:
            edges.append(i)
            filled, more = 0, size
        filled += more
    return list(pairwise([*edges, len(sizes)]))


def _pack(rows: Sequence[int], lengths: Sequence[Length], *, computed: int) -> Pack:
    return Pack(
        rows=tuple(rows),
        tokens=sum(lengths[r].total for r in rows),
        computed=computed,
        loss_tokens=sum(lengths[r].answer for r in rows),
    )


def largest_divisor(number: int, most: int) -> int:
    """Of ``number``, up to ``most``; at least 1. So many lanes share that many threads evenly."""
    return next(n for n in range(max(1, min(number, most)), 0, -1) if number % n == 0)


def dealt(packs: Sequence[Pack], takers: int) -> tuple[tuple[Pack, ...], ...]:
    """Every pack, largest first, to the worker or lane with the least to compute so far; ties to the first."""
    shares: list[list[Pack]] = [[] for _ in range(takers)]
    load = [0] * takers
    for pack in sorted(packs, key=lambda p: (-p.computed, p.rows)):
        taker = min(range(takers), key=lambda t: (load[t], t))
        shares[taker].append(pack)
        load[taker] += pack.computed
    return tuple(tuple(share) for share in shares)


def check_lengths(lengths: Sequence[Length], *, max_tokens: int, wheres: Sequence[str]) -> None:
    """Fail closed before training: every row has a loss and fits.

    Raises:
        UserError: naming every row (``file:line``) that has no answer token or would have to be truncated.
    """
    from promptintern_api import Problem

    problems = [
        Problem(
            where=where,
            message=f"is {length.total} tokens long; at most {max_tokens} fit (training.maxTokens)",
        )
        if length.total > max_tokens
        else Problem(where=where, message="has no answer token, so nothing could be learned from it")
        for where, length in zip(wheres, lengths, strict=True)
        if length.total > max_tokens or length.answer < 1
    ]
    if problems:
        raise UserError(problems)
