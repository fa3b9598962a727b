"""Planning: which rows make a step, which rows share a pack, which worker computes which pack.

The functions are pure and deterministic.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from promptintern.engine.attention.prefix_tree import Prefixes, build_tree
from promptintern.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """The tokens of one encoded row."""

    prompt: int
    answer: int
    """Answer tokens with the end token; the number of tokens that have a loss."""

    @property
    def total(self) -> int:
        return self.prompt + self.answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Rows that go through the model in one forward and backward pass, in this order; a micro-batch."""

    rows: tuple[int, ...]
    tokens: int
    """Prompt and answer tokens of all rows."""
    computed: int
    """Tokens that go through the model: each shared token once, and no row's last token, which predicts nothing."""
    loss_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """One optimizer step: a list of packs for every worker (a list may be empty)."""

    workers: tuple[tuple[Pack, ...], ...]
    """The packs of each worker, largest first."""
    lanes: int
    """The largest number of packs that a worker computes at the same time."""
    capacity: int
    """Maximum tokens of a pack; a longer row is a pack by itself."""
    prefix_tokens: int
    """Tokens of the shared prefix, which no pack holds; every worker that has packs computes it once."""
    rows: int
    tokens: int
    computed: int
    loss_tokens: int
    """Answer tokens of all workers; the loss is the sum over answer tokens divided by this number."""

    def concurrent_packs(self, rank: int) -> int:
        """Return the number of packs that worker ``rank`` computes at the same time."""
        return largest_divisor(self.lanes, sum(pack.computed <= self.capacity for pack in self.workers[rank]))

    def split_by_lane(self, rank: int) -> tuple[tuple[Pack, ...], tuple[tuple[Pack, ...], ...]]:
        """Return the packs that worker ``rank`` computes one by one, and the packs of each of its lanes.

        There are no packs for lanes if the worker has only one. Rows longer than a pack go one by one, because the
        memory of several at the same time was not planned for; so do the smallest packs, if the number of packs is not
        a multiple of the number of lanes.
        """
        packs, lanes = self.workers[rank], self.concurrent_packs(rank)
        if lanes == 1:
            return packs, ()
        long = sum(pack.computed > self.capacity for pack in packs)
        odd = len(packs) - (len(packs) - long) % lanes
        return (*packs[:long], *packs[odd:]), assign_packs(packs[long:odd], lanes)


_MIN_LANE_TOKENS = 256
"""Tokens that a step must have for every lane. A pack costs, besides its tokens, about as much as 130 of them."""


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
    min_node_savings: int = 1,
    min_prefix_savings: int | None = None,
) -> list[StepPlan]:
    """Plan all steps of a stage.

    Which rows make a step depends on ``lengths``, ``seed``, ``epochs`` and the two batch limits only, so a run with
    other workers or other packs takes the same steps. An epoch's last step may be smaller; no step crosses epochs.

    Args:
        lengths: The length of every row, by row index.
        seed: Numbers that identify the shuffles; the number of the epoch is appended.
        epochs: Passes over the rows.
        tokens_per_batch: Maximum prompt and answer tokens of a step; a longer row makes a step by itself.
        rows_per_batch: Maximum rows of a step; None for no limit.
        tokens_per_pack: Maximum computed tokens of all packs that a worker computes at the same time; a row that is
            too long for a pack makes a pack by itself.
        pack: Whether packs may hold several rows.
        world_size: Number of workers.
        lanes: Number of packs that a worker computes at the same time; a small step has fewer.
        prefixes: The prefixes of the rows' prompts, if packs share common prefixes; otherwise None.
        min_node_savings: Tokens that a shared node has to save, as when the tensors of a pack are made later.
        min_prefix_savings: Tokens that the shared prefix of a step has to save a worker to be computed separately from
            the packs; None if it never is.
    """
    steps = []
    capacity = tokens_per_pack // lanes
    for epoch in range(epochs):
        order = np.random.default_rng([*seed, epoch]).permutation(len(lengths)).tolist()
        for batch in _batches(order, lengths, tokens_per_batch=tokens_per_batch, rows_per_batch=rows_per_batch):
            prefix_tokens = 0
            if prefixes and pack:
                prefix_tokens, packs = _prefix_sharing_packs(
                    batch,
                    lengths,
                    prefixes,
                    capacity=capacity,
                    world_size=world_size,
                    lanes=lanes,
                    min_node_savings=min_node_savings,
                    min_prefix_savings=min_prefix_savings,
                )
            else:
                packs = _packs(batch, lengths, capacity=capacity if pack else 0, world_size=world_size)
            workers = assign_packs(packs, world_size)
            steps.append(
                StepPlan(
                    workers=workers,
                    lanes=lanes,
                    capacity=capacity,
                    prefix_tokens=prefix_tokens,
                    rows=len(batch),
                    tokens=sum(p.tokens for p in packs),
                    computed=sum(p.computed for p in packs) + prefix_tokens * sum(bool(share) for share in workers),
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
        is_full = tokens + lengths[row].total > tokens_per_batch or len(batch) == rows_per_batch
        if batch and is_full:
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += lengths[row].total
    if batch:
        yield batch


def _packs(batch: Sequence[int], lengths: Sequence[Length], *, capacity: int, world_size: int) -> list[Pack]:
    """Pack the rows by first-fit decreasing, into about as many packs for every worker, so that none waits for another.

    First-fit decreasing: rows are sorted by length, the longest first, and each goes into the first pack that has room
    for it (Johnson 1973, Near-optimal bin packing algorithms).
    """
    sizes = {row: lengths[row].total for row in sorted(batch, key=lambda r: (-lengths[r].total, r))}
    packs = _first_fit(sizes, capacity)
    num_packs = _round_up_packs(len(packs), world_size, rows=len(batch))
    if len(packs) < num_packs:
        packs = _first_fit(sizes, _smallest_capacity(capacity, lambda size: len(_first_fit(sizes, size)) <= num_packs))
    return [_pack(rows, lengths, computed=sum(lengths[r].total - 1 for r in rows)) for rows in packs]


def _first_fit(sizes: Mapping[int, int], capacity: int) -> list[list[int]]:
    """Put each row, in the order of ``sizes``, into the first pack that has room for it."""
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


def _round_up_packs(packs: int, takers: int, *, rows: int) -> int:
    """Return the pack count, rounded up to a multiple of the workers or lanes, at most one pack per row."""
    return min(-(-packs // takers) * takers, rows)


def _smallest_capacity(largest: int, is_enough: Callable[[int], bool]) -> int:
    """Return the smallest capacity that ``is_enough``, by bisection; ``largest`` must be enough."""
    low, high = 0, largest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _prefix_sharing_packs(
    batch: Sequence[int],
    lengths: Sequence[Length],
    prefixes: Prefixes,
    *,
    capacity: int,
    world_size: int,
    lanes: int,
    min_node_savings: int,
    min_prefix_savings: int | None,
) -> tuple[int, list[Pack]]:
    """Pack the rows of a step so that rows with common prefixes share a pack.

    The rows are sorted by their prompts and cut into as few packs as hold them, of about one size. There is a shared
    prefix if it saves enough tokens in all packs of a worker but one. There are packs for all lanes that have enough to
    compute, and where rows can be cut so, a multiple of the lanes, so that none waits for another. The rows are cut as
    if every common prefix were shared; a pack in which too short ones are not, and which is therefore too large, is
    halved.

    Returns:
        The number of tokens in the shared prefix (0 if there is none), and the packs.
    """
    rows = prefixes.sort(batch)
    sizes = [lengths[row].total for row in rows]
    common = [0, *(prefixes.common_tokens(a, b) for a, b in pairwise(rows))]
    prefix_tokens = min(common[1:], default=0)
    lanes = largest_divisor(lanes, (sum(sizes) - sum(common) - prefix_tokens) // (world_size * _MIN_LANE_TOKENS))
    packs_without = len(_cut(sizes, common, capacity))
    if (
        min_prefix_savings is None
        or prefix_tokens * (max(-(-packs_without // world_size), lanes) - 1) < min_prefix_savings
    ):
        prefix_tokens = 0
    below = [size - prefix_tokens for size in sizes], [max(0, tokens - prefix_tokens) for tokens in common]
    num_packs = _round_up_packs(len(_cut(*below, capacity)), world_size * lanes, rows=len(rows))
    ranges = _cut(*below, _smallest_capacity(capacity, lambda size: len(_cut(*below, size)) <= num_packs))[::-1]
    packs = []
    while ranges:
        start, stop = ranges.pop()
        pack_rows = rows[start:stop]
        computed = _tree_tokens(
            pack_rows,
            lengths,
            common[start + 1 : stop],
            min_node_savings=min_node_savings,
            prefix_tokens=prefix_tokens,
        )
        if computed > capacity and len(pack_rows) > 1:
            middle = (start + stop) // 2
            ranges += [(middle, stop), (start, middle)]
        else:
            packs.append(_pack(pack_rows, lengths, computed=computed))
    return prefix_tokens, packs


def _tree_tokens(
    rows: Sequence[int], lengths: Sequence[Length], common: Sequence[int], *, min_node_savings: int, prefix_tokens: int
) -> int:
    """Return the number of tokens in the prefix tree of ``rows``."""
    prompts = [lengths[row].prompt for row in rows]
    inputs = [lengths[row].total - 1 for row in rows]
    tree = build_tree(common, prompts, inputs, min_node_savings=min_node_savings, prefix_tokens=prefix_tokens)
    return tree.tokens


def _cut(sizes: Sequence[int], common: Sequence[int], capacity: int) -> list[tuple[int, int]]:
    """Cut rows, in order, into ranges that are each filled up to ``capacity`` (next fit).

    Args:
        sizes: Tokens of every row.
        common: Tokens that every row shares with the row before it; the first row of a range shares nothing.
        capacity: Maximum tokens of a range of several rows.
    """
    edges, filled = [0], 0
    for i, size in enumerate(sizes):
        added = size - common[i] if i > edges[-1] else size
        if i > edges[-1] and filled + added > capacity:
            edges.append(i)
            filled, added = 0, size
        filled += added
    return list(pairwise([*edges, len(sizes)]))


def _pack(rows: Sequence[int], lengths: Sequence[Length], *, computed: int) -> Pack:
    return Pack(
        rows=tuple(rows),
        tokens=sum(lengths[r].total for r in rows),
        computed=computed,
        loss_tokens=sum(lengths[r].answer for r in rows),
    )


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of ``number`` up to ``limit``, at least 1: as many lanes can share threads evenly."""
    return next(n for n in range(max(1, min(number, limit)), 0, -1) if number % n == 0)


def assign_packs(packs: Sequence[Pack], takers: int) -> tuple[tuple[Pack, ...], ...]:
    """Assign every pack, largest first, to the worker or lane with the least to compute so far.

    Ties go to the first one. This is longest-processing-time-first scheduling (Graham 1969, Bounds on multiprocessing
    timing anomalies).

    Args:
        takers: Number of workers or lanes.
    """
    shares: list[list[Pack]] = [[] for _ in range(takers)]
    load = [0] * takers
    for pack in sorted(packs, key=lambda p: (-p.computed, p.rows)):
        taker = min(range(takers), key=lambda t: (load[t], t))
        shares[taker].append(pack)
        load[taker] += pack.computed
    return tuple(tuple(share) for share in shares)


def check_lengths(lengths: Sequence[Length], *, max_tokens: int, wheres: Sequence[str]) -> None:
    """Check before training that every row has a loss and fits.

    Raises:
        UserError: names every row (``file:line``) that has no answer token or would have to be truncated.
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
