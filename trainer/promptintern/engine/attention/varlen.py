"""Attention over a prefix tree on a GPU: one call for all nodes among themselves, and one for every level above.

A kernel for sequences of any lengths takes a level's nodes at once, since launching one for each would cost more than
what it computes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from promptintern.engine.attention.prefix_tree import PrefixTree
from promptintern.engine.attention.tree_attention import Part, Where, grouped
from promptintern.engine.device import moved

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """N sequences of queries, each with keys of its own, laid end to end.

    Attributes:
        query_ends: ``[N + 1]`` int32, a zero and where each sequence's queries end.
        key_ends: ``[N + 1]`` int32, the same of keys.
        lengths: Of every sequence's queries.
        longest: Of queries and of keys, the longest sequence's tokens.
        causal: Whether the last query sees all keys, the one before it one less, and so on; else all see all.
    """

    query_ends: Tensor
    key_ends: Tensor
    lengths: tuple[int, ...]
    longest: tuple[int, int]
    causal: bool

    @property
    def bounds(self) -> tuple[Tensor, Tensor, int, int]:
        """As PyTorch's kernels take them one after the other: ends of queries and of keys, and the longest of each."""
        return self.query_ends, self.key_ends, *self.longest

    @cached_property
    def cells(self) -> tuple[Tensor, Tensor]:
        """``[R]`` each, of every query its sequence and its place in it."""
        sequence = np.repeat(np.arange(len(self.lengths)), self.lengths)
        place = np.concatenate([np.arange(length) for length in self.lengths])
        return moved(sequence, self.query_ends.device), moved(place, self.query_ends.device)


class Kernel(Protocol):
    """Fused attention of sequences that takes and gives log-sum-exps.

    Shapes: queries ``[R, Hq, D]``, keys and values ``[S, Hk, D]``, log-sum-exps ``[R, Hq]`` float32.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, *, scale: float) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp."""
        ...

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        sequences: Sequences,
        *,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values; ``out`` and ``lse`` may be merged ones."""
        ...


_WIDEST = 256


class FlashKernel:
    """FlashAttention-2 as PyTorch has it: numbers of 16 bits, from Ampere on."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, *, scale: float) -> tuple[Tensor, Tensor]:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q,
            k,
            v,
            *sequences.bounds,
            0.0,
            sequences.causal,
            False,
            scale=scale,
        )
        return out, lse.t()

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        sequences: Sequences,
        *,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        undrawn = torch.empty(2, dtype=torch.uint64, device=q.device)  # the state of a dropout that there is not
        with _in_certain_order():
            dq, dk, dv = torch.ops.aten._flash_attention_backward(
                grad,
                q,
                k,
                v,
                out,
                lse.t().contiguous(),
                *sequences.bounds,
                0.0,
                sequences.causal,
                undrawn,
                undrawn,
                scale=scale,
            )
        return dq, dk, dv


@contextmanager
def _in_certain_order() -> Iterator[None]:
    """Inside, kernels that can add up in a certain order do: what is resumed has to end in the same bits."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = fill


class EfficientKernel:
    """PyTorch's memory-efficient attention: float32 too, and any GPU."""

    _ALIGNED = 32  # it pads log-sum-exps to a multiple of this
    _FROM_THE_END = 2  # of causal masks

    def forward(self, q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, *, scale: float) -> tuple[Tensor, Tensor]:
        k, v = (_for_all_heads(x, q) for x in (k, v))
        out, lse, *_ = torch.ops.aten._efficient_attention_forward(
            q[None],
            k[None],
            v[None],
            None,
            *sequences.bounds,
            0.0,
            self._FROM_THE_END if sequences.causal else 0,
            True,
            scale=scale,
        )
        sequence, place = sequences.cells
        return out[0], lse[sequence, :, place]

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        sequences: Sequences,
        *,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads, groups = k.shape[1], q.shape[1] // k.shape[1]
        k, v = (_for_all_heads(x, q) for x in (k, v))
        (sequence, place), longest = sequences.cells, sequences.longest[0]
        padded = lse.new_full(
            (len(sequences.query_ends) - 1, q.shape[1], longest + -longest % self._ALIGNED), float("inf")
        )
        padded[sequence, :, place] = lse
        undrawn = torch.zeros((), dtype=torch.int64)
        dq, dk, dv, _ = torch.ops.aten._efficient_attention_backward(
            grad[None],
            q[None],
            k[None],
            v[None],
            None,
            out[None],
            *sequences.bounds,
            padded,
            0.0,
            undrawn,
            undrawn,
            self._FROM_THE_END if sequences.causal else 0,
            False,
            scale=scale,
            num_splits_key=1,  # with more, sums are taken in no certain order
        )
        dk, dv = (x[0].view(-1, heads, groups, x.shape[-1]).sum(2, dtype=torch.float32) for x in (dk, dv))
        return dq[0], dk, dv


def _for_all_heads(x: Tensor, q: Tensor) -> Tensor:
    """``[S, Hk, D]`` to ``[S, Hq, D]``."""
    return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)


def kernel_for(q: Tensor, v: Tensor) -> Kernel:
    """The fastest for these numbers and widths on their GPU."""
    width = q.shape[-1]
    small = q.dtype in (torch.bfloat16, torch.float16) and width == v.shape[-1] <= _WIDEST and width % 8 == 0
    return FlashKernel() if small and torch.cuda.get_device_capability(q.device)[0] >= 8 else EfficientKernel()


@dataclass(frozen=True, kw_only=True)
class Level:
    """Nodes among themselves, or all that is below nodes to these nodes, in one call."""

    queries: Where
    keys: Where
    sequences: Sequences

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        groups = q.shape[2]
        out, lse = kernel_for(q, v).forward(
            q[self.queries].flatten(1, 2), k[self.keys], v[self.keys], self.sequences, scale=scale
        )
        return grouped(out, groups), grouped(lse, groups)

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        groups = q.shape[2]
        grad, asking, out, lse = (x[self.queries].flatten(1, 2) for x in (grad, q, out, lse))
        dq, dk, dv = kernel_for(q, v).backward(
            grad, asking, k[self.keys], v[self.keys], out, lse, self.sequences, scale=scale
        )
        return grouped(dq, groups), dk, dv


class _Sequence(NamedTuple):
    """A range of queries, and of their keys."""

    queries: slice
    keys: slice


class Ragged:
    """The calls of a GPU."""

    long = 1
    least_saved = 512
    """What one more level costs: some forty launches in every layer, forward and backward."""
    trunk_saves: int | None = None
    """One more pass is a few thousand launches, and few packs have its tokens twice."""

    def parts(
        self, tree: PrefixTree, before: Sequence[int], device: torch.device
    ) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """As ``promptintern.engine.attention.tree_attention.Planner`` says."""
        own: list[_Sequence] = []
        above: dict[int, list[_Sequence]] = {}
        ends: list[int] = []  # where the nodes above the one in hand stop
        for node in tree.nodes:
            while ends and ends[-1] <= node.start:
                ends.pop()
            first, last = before[node.start], before[node.end]
            keys = slice(node.start, node.end)
            if first < last:
                own.append(_Sequence(slice(first, last), keys))
            if node.end < node.stop:
                above.setdefault(len(ends), []).append(_Sequence(slice(last, before[node.stop]), keys))
                ends.append(node.stop)
        dense = (_level(sequences, device, causal=False) for _, sequences in sorted(above.items()))
        return (_level(own, device, causal=True),), tuple(dense)

    def to_trunk(self, queries: int, tokens: int, device: torch.device) -> Part:
        """As ``promptintern.engine.attention.tree_attention.Planner`` says."""
        return _level([_Sequence(slice(0, queries), slice(0, tokens))], device, causal=False)


def _level(found: Sequence[_Sequence], device: torch.device, *, causal: bool) -> Level:
    queries, keys = [each.queries for each in found], [each.keys for each in found]
    lengths = tuple(s.stop - s.start for s in queries)
    return Level(
        queries=_places(queries, device),
        keys=_places(keys, device),
        sequences=Sequences(
            query_ends=_ends(queries, device),
            key_ends=_ends(keys, device),
            lengths=lengths,
            longest=(max(lengths), max(s.stop - s.start for s in keys)),
            causal=causal,
        ),
    )


def _places(ranges: Sequence[slice], device: torch.device) -> Where:
    if all(a.stop == b.start for a, b in pairwise(ranges)):
        return slice(ranges[0].start, ranges[-1].stop)
    return moved(np.concatenate([np.arange(s.start, s.stop) for s in ranges]), device)


def _ends(ranges: Sequence[slice], device: torch.device) -> Tensor:
    ends = accumulate((s.stop - s.start for s in ranges), initial=0)
    return moved(np.fromiter(ends, dtype=np.int32), device)
