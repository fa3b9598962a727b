"""The planning of steps: which rows make a step, which rows share a pack, and which worker computes which pack.

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
    """The numbers of tokens in one encoded row."""

    prompt: int
    answer: int
    """The number of answer tokens, including the end token; all of these tokens have a loss."""

    @property
    def total(self) -> int:
        return self.prompt + self.answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """A micro-batch: the rows, in order, that the model computes in one forward and backward pass."""

    rows: tuple[int, ...]
    tokens: int
    """The number of prompt and answer tokens in all rows."""
    computed: int
    """The number of tokens that the model computes. Each shared token counts once; the last token of a row predicts
    nothing and does not count."""
    loss_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """The plan of one optimizer step, with a list of packs for every worker (a list may be empty)."""

    workers: tuple[tuple[Pack, ...], ...]
    """The packs of each worker, largest first."""
    lanes: int
    """The largest number of packs that a worker computes at the same time."""
    capacity: int
    """The maximum number of tokens in a pack; a longer row gets its own pack."""
    prefix_tokens: int
    """The number of tokens in the shared prefix. No pack holds the prefix; every worker that has packs computes it
    once."""
    rows: int
    tokens: int
    computed: int
    loss_tokens: int
    """The number of answer tokens in the step, over all workers. The loss of the step is the sum of the losses of these
    tokens, divided by their number."""

    def concurrent_packs(self, rank: int) -> int:
        """Return the number of packs that worker ``rank`` computes at the same time."""
        return largest_divisor(self.lanes, sum(pack.computed <= self.capacity for pack in self.workers[rank]))

    def split_by_lane(self, rank: int) -> tuple[tuple[Pack, ...], tuple[tuple[Pack, ...], ...]]:
        """Return the packs that worker ``rank`` computes one by one, and the packs of each of its lanes.

        If the worker has only one lane, it computes all packs one by one. With several lanes, rows longer than
        ``capacity`` are still computed one by one, because no memory was planned for several of them at the same time.
        The smallest packs are also computed one by one if the number of packs is not a multiple of the number of lanes.
        """
        packs, lanes = self.workers[rank], self.concurrent_packs(rank)
        if lanes == 1:
            return packs, ()
        long = sum(pack.computed > self.capacity for pack in packs)
        odd = len(packs) - (len(packs) - long) % lanes
        return (*packs[:long], *packs[odd:]), assign_packs(packs[long:odd], lanes)


_MIN_LANE_TOKENS = 256
"""The minimum number of tokens per lane in a step; a smaller step uses fewer lanes. The fixed cost of a pack is about
the cost of 130 tokens."""


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
    """Plan all steps of a track.

    The rows of each step depend only on ``lengths``, ``seed``, ``epochs`` and the two batch limits, so a run with a
    different number of workers or different packs has the same steps. The last step of an epoch may be smaller; no step
    spans two epochs.

    Args:
        lengths: The length of every row, by row index.
        seed: The numbers that seed the shuffles; the number of the epoch is appended.
        epochs: The number of passes over the rows.
        tokens_per_batch: The maximum number of prompt and answer tokens in a step; a longer row gets its own step.
        rows_per_batch: The maximum number of rows in a step; None for no limit.
        tokens_per_pack: The maximum number of computed tokens in all packs that a worker computes at the same time; a
            row that is too long for a pack gets its own pack.
        pack: Whether packs may hold several rows.
        world_size: The number of workers.
        lanes: The number of packs that a worker computes at the same time; a small step may use fewer lanes.
        prefixes: The prefixes of the rows' prompts, if packs share common prefixes; otherwise None.
        min_node_savings: The minimum number of tokens that a shared node must save. It must be the value with which
            ``pack_tensors`` is called for these packs.
        min_prefix_savings: The minimum number of tokens that the shared prefix of a step must save each worker to be
            computed separately from the packs; None if it is never computed separately.
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
    """Pack the rows by first-fit decreasing, into about the same number of packs for every worker.

    With equal numbers, no worker waits for another. First-fit decreasing sorts the rows by length, longest first, and
    puts each row into the first pack that has room for it (Johnson 1973, Near-optimal bin packing algorithms).
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
    """Return ``packs`` rounded up to a multiple of ``takers`` (workers or lanes), but at most one pack per row."""
    return min(-(-packs // takers) * takers, rows)


def _smallest_capacity(largest: int, is_enough: Callable[[int], bool]) -> int:
    """Find, by bisection, the smallest capacity for which ``is_enough`` is true; it must be true for ``largest``."""
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

    The rows are sorted by their prompts and cut into the smallest number of packs that can hold them, all of about the
    same size. A shared prefix, which saves its tokens in all packs of a worker except one, is used if this saves enough
    tokens. If the step has too few tokens for all lanes, fewer lanes are used. If the rows allow it, the number of
    packs is a multiple of the number of lanes of all workers, so that no lane waits for another. The rows are cut as if
    every common prefix were shared. Prefixes that are too short are not shared, so a pack may turn out too large; such
    a pack is halved.

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
    """Cut the rows, in order, into ranges, each of as many rows as ``capacity`` allows (next fit).

    Args:
        sizes: The number of tokens in every row.
        common: The number of tokens that every row shares with the row before it; the first row of a range shares
            nothing.
        capacity: The maximum number of tokens in a range of several rows.
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
    """Return the largest divisor of ``number`` that is at most ``limit``, or 1 if ``limit`` is below 1."""
    return next(n for n in range(max(1, min(number, limit)), 0, -1) if number % n == 0)


def assign_packs(packs: Sequence[Pack], takers: int) -> tuple[tuple[Pack, ...], ...]:
    """Assign every pack, largest first, to the worker or lane with the least to compute so far.

    In a tie, the first worker or lane gets the pack. This is longest-processing-time-first scheduling (Graham 1969,
    Bounds on multiprocessing timing anomalies).

    Args:
        takers: The number of workers or lanes.
    """
    shares: list[list[Pack]] = [[] for _ in range(takers)]
    load = [0] * takers
    for pack in sorted(packs, key=lambda p: (-p.computed, p.rows)):
        taker = min(range(takers), key=lambda t: (load[t], t))
        shares[taker].append(pack)
        load[taker] += pack.computed
    return tuple(tuple(share) for share in shares)


def check_lengths(lengths: Sequence[Length], *, max_tokens: int, wheres: Sequence[str]) -> None:
    """Check before training that every row has a loss and has at most ``max_tokens`` tokens.

    Raises:
        UserError: if a row has no answer token or would have to be truncated; the error names every such row
            (``file:line``).
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
