"""Tree attention on a GPU, with one kernel call for the attention within nodes, and one for each level of shared nodes.

A variable-length kernel computes all nodes of a level at once, because launching one kernel for each node would cost
more than the computation itself.
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
from promptintern.engine.attention.tree_attention import Segment, TokenIndex, group_heads
from promptintern.engine.device import to_device

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class VarlenBatch:
    """A batch of N concatenated sequences of queries, each of which attends to its own sequence of keys.

    Attributes:
        cu_seqlens_q: The cumulative lengths ``[N + 1]`` int32 of the sequences of queries, starting with 0.
        cu_seqlens_k: The cumulative lengths ``[N + 1]`` int32 of the sequences of keys, starting with 0.
        seqlens_q: The length of every sequence of queries.
        max_seqlen_q: The length of the longest sequence of queries.
        max_seqlen_k: The length of the longest sequence of keys.
        causal: Whether the last query of a sequence attends to all keys, the query before it to all keys but the last,
            and so on. If False, every query attends to all keys of its sequence.
    """

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    seqlens_q: tuple[int, ...]
    max_seqlen_q: int
    max_seqlen_k: int
    causal: bool

    @property
    def kernel_args(self) -> tuple[Tensor, Tensor, int, int]:
        """The cumulative and the maximum lengths, in the order in which PyTorch's kernels take them."""
        return self.cu_seqlens_q, self.cu_seqlens_k, self.max_seqlen_q, self.max_seqlen_k

    @cached_property
    def query_cells(self) -> tuple[Tensor, Tensor]:
        """The number of each query's sequence, and the index of each query within its sequence, ``[R]`` each."""
        sequence = np.repeat(np.arange(len(self.seqlens_q)), self.seqlens_q)
        index = np.concatenate([np.arange(length) for length in self.seqlens_q])
        return to_device(sequence, self.cu_seqlens_q.device), to_device(index, self.cu_seqlens_q.device)


class VarlenKernel(Protocol):
    """A kernel for variable-length attention that returns log-sum-exps, and takes them in the backward pass.

    Shapes: queries ``[R, Hq, D]``, keys and values ``[S, Hk, D]``, log-sum-exps ``[R, Hq]`` float32.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, batch: VarlenBatch, *, scale: float) -> tuple[Tensor, Tensor]:
        """Return the attention output ``[R, Hq, D]`` and the log-sum-exps."""
        ...

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        batch: VarlenBatch,
        *,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of queries, keys and values.

        The output ``out`` and the log-sum-exps ``lse`` may be combined over several segments.
        """
        ...


_MAX_HEAD_DIM = 256


class FlashKernel:
    """PyTorch's FlashAttention-2 kernel (Dao 2023, arXiv 2307.08691), for 16-bit dtypes on Ampere or newer GPUs."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, batch: VarlenBatch, *, scale: float) -> tuple[Tensor, Tensor]:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q,
            k,
            v,
            *batch.kernel_args,
            0.0,
            batch.causal,
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
        batch: VarlenBatch,
        *,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rng_state = torch.empty(2, dtype=torch.uint64, device=q.device)  # for dropout, which is not used
        with _deterministic():
            dq, dk, dv = torch.ops.aten._flash_attention_backward(
                grad,
                q,
                k,
                v,
                out,
                lse.t().contiguous(),
                *batch.kernel_args,
                0.0,
                batch.causal,
                rng_state,
                rng_state,
                scale=scale,
            )
        return dq, dk, dv


@contextmanager
def _deterministic() -> Iterator[None]:
    """Make kernels deterministic inside the ``with`` block, so that a resumed run reproduces the same bits."""
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
    """PyTorch's memory-efficient attention kernel (Rabe & Staats 2021, arXiv 2112.05682).

    This kernel also supports float32, and runs on any GPU.
    """

    _LSE_ALIGNMENT = 32  # the kernel pads log-sum-exps to a multiple of this number
    _CAUSAL_FROM_BOTTOM_RIGHT = 2  # PyTorch's number for a causal mask aligned to the last query and the last key

    def forward(self, q: Tensor, k: Tensor, v: Tensor, batch: VarlenBatch, *, scale: float) -> tuple[Tensor, Tensor]:
        k, v = (_repeat_heads(x, q) for x in (k, v))
        out, lse, *_ = torch.ops.aten._efficient_attention_forward(
            q[None],
            k[None],
            v[None],
            None,
            *batch.kernel_args,
            0.0,
            self._CAUSAL_FROM_BOTTOM_RIGHT if batch.causal else 0,
            True,
            scale=scale,
        )
        sequence, index = batch.query_cells
        return out[0], lse[sequence, :, index]

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        batch: VarlenBatch,
        *,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads, groups = k.shape[1], q.shape[1] // k.shape[1]
        k, v = (_repeat_heads(x, q) for x in (k, v))
        (sequence, index), longest = batch.query_cells, batch.max_seqlen_q
        padded_lse = lse.new_full(
            (len(batch.cu_seqlens_q) - 1, q.shape[1], longest + -longest % self._LSE_ALIGNMENT), float("inf")
        )
        padded_lse[sequence, :, index] = lse
        rng_state = torch.zeros((), dtype=torch.int64)
        dq, dk, dv, _ = torch.ops.aten._efficient_attention_backward(
            grad[None],
            q[None],
            k[None],
            v[None],
            None,
            out[None],
            *batch.kernel_args,
            padded_lse,
            0.0,
            rng_state,
            rng_state,
            self._CAUSAL_FROM_BOTTOM_RIGHT if batch.causal else 0,
            False,
            scale=scale,
            num_splits_key=1,  # with more splits, the order of the sums is not deterministic
        )
        dk, dv = (x[0].view(-1, heads, groups, x.shape[-1]).sum(2, dtype=torch.float32) for x in (dk, dv))
        return dq[0], dk, dv


def _repeat_heads(x: Tensor, q: Tensor) -> Tensor:
    """Repeat the heads of keys or values ``x`` ``[S, Hk, D]`` to match those of ``q``, and return ``[S, Hq, D]``."""
    return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)


def kernel_for(q: Tensor, v: Tensor) -> VarlenKernel:
    """Return the fastest kernel for the dtype, the head dimensions and the GPU of ``q`` and ``v``."""
    head_dim = q.shape[-1]
    fits = q.dtype in (torch.bfloat16, torch.float16) and head_dim == v.shape[-1] <= _MAX_HEAD_DIM and head_dim % 8 == 0
    return FlashKernel() if fits and torch.cuda.get_device_capability(q.device)[0] >= 8 else EfficientKernel()


@dataclass(frozen=True, kw_only=True)
class VarlenSegment:
    """A segment that covers many nodes in one kernel call.

    Either the tokens of all nodes attend causally within their own node, or the tokens of all descendants of the nodes
    of one level attend to these nodes.
    """

    queries: TokenIndex
    keys: TokenIndex
    batch: VarlenBatch

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        groups = q.shape[2]
        out, lse = kernel_for(q, v).forward(
            q[self.queries].flatten(1, 2), k[self.keys], v[self.keys], self.batch, scale=scale
        )
        return group_heads(out, groups), group_heads(lse, groups)

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        groups = q.shape[2]
        grad, queries, out, lse = (x[self.queries].flatten(1, 2) for x in (grad, q, out, lse))
        dq, dk, dv = kernel_for(q, v).backward(
            grad, queries, k[self.keys], v[self.keys], out, lse, self.batch, scale=scale
        )
        return group_heads(dq, groups), dk, dv


class _Sequence(NamedTuple):
    """A range of queries, and the range of keys to which they attend."""

    queries: slice
    keys: slice


class VarlenBackend:
    """The tree-attention backend for GPUs."""

    min_call_tokens = 1
    min_node_savings = 512
    """The minimum number of tokens that a shared node must save. One more level of nodes costs about forty kernel
    launches in every layer, for the forward and the backward pass."""
    min_prefix_savings: int | None = None
    """None, because a shared prefix is not worthwhile on a GPU: the extra pass that computes it costs a few thousand
    kernel launches, and few steps have enough packs to save that much."""

    def segments(
        self, tree: PrefixTree, queries_before: Sequence[int], device: torch.device
    ) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
        """Return the causal and the dense segments for ``tree``; see ``AttentionBackend.segments``."""
        causal: list[_Sequence] = []
        dense_by_depth: dict[int, list[_Sequence]] = {}
        ancestor_ends: list[int] = []  # the ends of the subtrees of the current node's ancestors
        for node in tree.nodes:
            while ancestor_ends and ancestor_ends[-1] <= node.start:
                ancestor_ends.pop()
            first, last = queries_before[node.start], queries_before[node.end]
            keys = slice(node.start, node.end)
            if first < last:
                causal.append(_Sequence(slice(first, last), keys))
            if node.end < node.subtree_end:
                below = slice(last, queries_before[node.subtree_end])
                dense_by_depth.setdefault(len(ancestor_ends), []).append(_Sequence(below, keys))
                ancestor_ends.append(node.subtree_end)
        dense = (_varlen_segment(sequences, device, causal=False) for _, sequences in sorted(dense_by_depth.items()))
        return (_varlen_segment(causal, device, causal=True),), tuple(dense)

    def prefix_segment(self, queries: int, tokens: int, device: torch.device) -> Segment:
        """Return the segment in which all queries attend to the shared prefix; see ``AttentionBackend``."""
        return _varlen_segment([_Sequence(slice(0, queries), slice(0, tokens))], device, causal=False)


def _varlen_segment(sequences: Sequence[_Sequence], device: torch.device, *, causal: bool) -> VarlenSegment:
    queries, keys = [each.queries for each in sequences], [each.keys for each in sequences]
    seqlens_q = tuple(s.stop - s.start for s in queries)
    return VarlenSegment(
        queries=_token_index(queries, device),
        keys=_token_index(keys, device),
        batch=VarlenBatch(
            cu_seqlens_q=_cu_seqlens(queries, device),
            cu_seqlens_k=_cu_seqlens(keys, device),
            seqlens_q=seqlens_q,
            max_seqlen_q=max(seqlens_q),
            max_seqlen_k=max(s.stop - s.start for s in keys),
            causal=causal,
        ),
    )


def _token_index(ranges: Sequence[slice], device: torch.device) -> TokenIndex:
    if all(a.stop == b.start for a, b in pairwise(ranges)):
        return slice(ranges[0].start, ranges[-1].stop)
    return to_device(np.concatenate([np.arange(s.start, s.stop) for s in ranges]), device)


def _cu_seqlens(ranges: Sequence[slice], device: torch.device) -> Tensor:
    ends = accumulate((s.stop - s.start for s in ranges), initial=0)
    return to_device(np.fromiter(ends, dtype=np.int32), device)
