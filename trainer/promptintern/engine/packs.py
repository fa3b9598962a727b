"""Planning: which rows make a step, which rows share a pack, which worker takes which pack. Pure and deterministic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

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
    loss_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """One optimizer step: a list of packs for every worker (a list may be empty)."""

    workers: tuple[tuple[Pack, ...], ...]
    rows: int
    tokens: int
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
        tokens_per_pack: Tokens of a pack; a longer row makes a pack of its own.
        pack: False puts every row into a pack of its own.
        world_size: Workers.
    """
    steps = []
    for epoch in range(epochs):
        order = np.random.default_rng([*seed, epoch]).permutation(len(lengths)).tolist()
        for batch in _batches(order, lengths, tokens_per_batch=tokens_per_batch, rows_per_batch=rows_per_batch):
            packs = _packs(batch, lengths, capacity=tokens_per_pack if pack else 0)
            steps.append(
                StepPlan(
                    workers=_assign(packs, world_size),
                    rows=len(batch),
                    tokens=sum(p.tokens for p in packs),
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
    return [
        Pack(
            rows=tuple(rows),
            tokens=sum(lengths[r].total for r in rows),
            loss_tokens=sum(lengths[r].answer for r in rows),
        )
        for rows in bins
    ]


def _assign(packs: Sequence[Pack], world_size: int) -> tuple[tuple[Pack, ...], ...]:
    """Every pack, largest first, to the worker with the fewest tokens so far; ties to the lowest rank."""
    shares: list[list[Pack]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for pack in sorted(packs, key=lambda p: (-p.tokens, p.rows)):
        rank = min(range(world_size), key=lambda r: (load[r], r))
        shares[rank].append(pack)
        load[rank] += pack.tokens
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
