"""Planning: which rows make a step, which rows share a pack, which worker takes which pack. Pure and deterministic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from promptintern.engine.tree import Prefixes, plant
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
    """Tokens that go through the model: each shared one once."""
    loss_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """One optimizer step: a list of packs for every worker (a list may be empty)."""

    workers: tuple[tuple[Pack, ...], ...]
    rows: int
    tokens: int
    computed: int
    loss_tokens: int
    """Over all workers; the loss is the sum over answer tokens divided by this."""


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
    prefixes: Prefixes | None = None,
    least_saved: int = 1,
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
        tokens_per_pack: Computed tokens of a pack; a longer row makes a pack of its own.
        pack: False puts every row into a pack of its own.
        world_size: Workers.
        prefixes: Of the rows' prompts, if packs share what prompts have in common.
        least_saved: Tokens that a shared node has to save to be one, as packs are put together later.
    """
    steps = []
    for epoch in range(epochs):
        order = np.random.default_rng([*seed, epoch]).permutation(len(lengths)).tolist()
        for batch in _batches(order, lengths, tokens_per_batch=tokens_per_batch, rows_per_batch=rows_per_batch):
            packs = (
                _sharing_packs(
                    batch,
                    lengths,
                    prefixes,
                    capacity=tokens_per_pack,
                    world_size=world_size,
                    least_saved=least_saved,
                )
                if prefixes and pack
                else _packs(batch, lengths, capacity=tokens_per_pack if pack else 0)
            )
            steps.append(
                StepPlan(
                    workers=_assign(packs, world_size),
                    rows=len(batch),
                    tokens=sum(p.tokens for p in packs),
                    computed=sum(p.computed for p in packs),
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


def _packs(batch: Sequence[int], lengths: Sequence[Length], *, capacity: int) -> list[Pack]:
    """First fit, longest rows first, ties by row index."""
    bins: list[list[int]] = []
    room: list[int] = []
    for row in sorted(batch, key=lambda r: (-lengths[r].total, r)):
        size = lengths[row].total
        place = next((i for i, free in enumerate(room) if free >= size), None)
        if place is None:
            bins.append([row])
            room.append(capacity - size)
        else:
            bins[place].append(row)
            room[place] -= size
    return [_pack(rows, lengths, computed=sum(lengths[r].total for r in rows)) for rows in bins]


def _sharing_packs(
    batch: Sequence[int],
    lengths: Sequence[Length],
    prefixes: Prefixes,
    *,
    capacity: int,
    world_size: int,
    least_saved: int,
) -> list[Pack]:
    """Rows that begin alike side by side, cut into as few packs as hold them, all of about one size.

    Their number is a multiple of ``world_size`` where there are rows enough, so that no worker waits for another. They
    are cut as if whatever rows have in common were shared; where too little of it is, a pack that is too large is
    halved.
    """
    rows = prefixes.sort(batch)
    sizes = [lengths[row].total for row in rows]
    common = [0, *(prefixes.common(a, b) for a, b in pairwise(rows))]
    fewest = len(_cut(sizes, common, capacity))
    wanted = min(-(-fewest // world_size) * world_size, len(rows))
    low, high = 0, capacity  # the smallest capacity that needs no more packs than wanted
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_cut(sizes, common, middle)) <= wanted else (middle, high)
    packs = []
    ranges = _cut(sizes, common, high)[::-1]
    while ranges:
        start, stop = ranges.pop()
        some = rows[start:stop]
        computed = _computed(some, lengths, common[start + 1 : stop], least_saved)
        if computed > capacity and len(some) > 1:
            middle = (start + stop) // 2
            ranges += [(middle, stop), (start, middle)]
        else:
            packs.append(_pack(some, lengths, computed=computed))
    return packs


def _computed(rows: Sequence[int], lengths: Sequence[Length], common: Sequence[int], least_saved: int) -> int:
    """Tokens of the tree that ``rows`` become, with every row's last."""
    prompts = [lengths[row].prompt for row in rows]
    inputs = [lengths[row].total - 1 for row in rows]
    return plant(common, prompts, inputs, least_saved=least_saved).tokens + len(rows)


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


def _assign(packs: Sequence[Pack], world_size: int) -> tuple[tuple[Pack, ...], ...]:
    """Every pack, largest first, to the worker with the least to compute so far; ties to the lowest rank."""
    shares: list[list[Pack]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for pack in sorted(packs, key=lambda p: (-p.computed, p.rows)):
        rank = min(range(world_size), key=lambda r: (load[r], r))
        shares[rank].append(pack)
        load[rank] += pack.computed
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
