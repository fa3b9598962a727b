"""Attention over a prefix tree without a mask, exact in values and gradients.

This is cascade attention (FlashInfer's cascade inference; Hydragen, Juravsky et al. 2024, arXiv 2402.05099) with a
backward pass. Every token attends to all tokens of the nodes above its own, and causally within its own node. Each of
these is one plain dense or causal attention, called a segment. The outputs of the segments are combined by their
log-sum-exps, as flash attention combines blocks of keys (Dao et al. 2022, section 3.1).

In the backward pass, a segment's probabilities are ``exp(q k - lse)`` with the COMBINED log-sum-exp, and the softmax's
correction term needs the COMBINED output only. So a fused backward kernel that is called with both yields the segment's
exact gradients of keys and values, and the segments' gradients of the queries add up.

The segments that each kind of device uses are in ``cpu`` and, for CUDA, in ``varlen``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from promptintern.engine.attention.prefix_tree import PrefixTree
from promptintern.engine.attention.shared_prefix import LayerPrefix, SharedPrefix
from promptintern.engine.device import to_device

Tensor = torch.Tensor
TokenIndex = slice | Tensor
"""Indices of tokens: a range, or an int64 tensor ``[R]`` without duplicates."""


class Segment(Protocol):
    """Attention of a range of queries to a range of keys, in one kernel call.

    Shapes: queries and outputs ``[Q, H, G, D]``, where G queries have the same keys and values ``[T, H, D]``;
    log-sum-exps ``[Q, H, G]`` float32. The methods take the tensors of all tokens, and return those of the segment's R
    queries and S keys.
    """

    @property
    def queries(self) -> TokenIndex:
        """The segment's queries among those of the pack."""
        ...

    @property
    def keys(self) -> TokenIndex:
        """The segment's keys among those of the pack."""
        ...

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        """Return the output and the log-sum-exp of the segment's queries."""
        ...

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of the segment's queries, keys and values, given the combined ``out`` and ``lse``."""
        ...


@dataclass(frozen=True, kw_only=True)
class SegmentPlan:
    """The attention segments of a layer.

    Attributes:
        causal: Segments of tokens that attend to others of their own node. Every query is in exactly one of them, every
            key in at most one.
        dense: Segments of tokens that attend to all tokens of a node above theirs.
        shared_prefix: The segment of all queries to all of the shared prefix; None without a shared prefix.
        queries: Indices ``[Q]`` of the tokens that have queries; None if all tokens have.
    """

    causal: tuple[Segment, ...]
    dense: tuple[Segment, ...]
    shared_prefix: Segment | None
    queries: Tensor | None


class AttentionBackend(Protocol):
    """How one kind of device computes attention over trees.

    Attributes:
        min_call_tokens: Tokens from which a node gets a kernel call of its own.
        min_node_savings: Tokens that a shared node has to save, since it costs a call, or part of one, in every layer.
        min_prefix_savings: Tokens that a shared prefix has to save a worker, since it costs a pass through the model;
            None if no shared prefix pays.
    """

    min_call_tokens: int
    min_node_savings: int
    min_prefix_savings: int | None

    def segments(
        self, tree: PrefixTree, queries_before: Sequence[int], device: torch.device
    ) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
        """Return ``SegmentPlan.causal`` and ``SegmentPlan.dense`` for ``tree``.

        Args:
            queries_before: For every index in ``0..T``, the number of queries among the tokens before it, ``[T + 1]``.
                Within a node all tokens are queries, or none, or only the last ones.
        """
        ...

    def prefix_segment(self, queries: int, tokens: int, device: torch.device) -> Segment:
        """Return ``SegmentPlan.shared_prefix``, in which ``queries`` queries attend to all ``tokens`` prefix tokens."""
        ...


@dataclass(frozen=True, kw_only=True)
class TreeAttention:
    """The attention of a pack over its prefix tree."""

    inner_layers: SegmentPlan
    """The segments of every layer but the last."""
    last_layer: SegmentPlan
    """The segments of the last layer, in which only tokens that predict an answer token need to attend."""
    longest_row: int
    """Number of tokens of the longest row."""
    shared_prefix: SharedPrefix | None = None
    """The shared prefix above the whole tree, if there is one."""
    recorded_prefix: SharedPrefix | None = None
    """The prefix that records this pack's keys and values, if the pack is the shared prefix itself."""


def plan_tree_attention(
    tree: PrefixTree, backend: AttentionBackend, *, device: torch.device, shared_prefix: SharedPrefix | None = None
) -> TreeAttention:
    """Plan the attention over ``tree`` on ``device``, with the segments that ``backend`` uses."""
    predicts = np.zeros(tree.tokens, dtype=bool)
    leaves = (node for node in tree.nodes if node.subtree_end == node.end)
    for node, answer_start in zip(leaves, tree.answer_starts, strict=True):
        first = answer_start - 1
        if first - node.start < backend.min_call_tokens:  # a separate call would cost more than it saves
            first = node.start
        predicts[first : node.end] = True
    return TreeAttention(
        inner_layers=_plan_segments(tree, np.ones(tree.tokens, dtype=bool), backend, device, shared_prefix),
        last_layer=_plan_segments(tree, predicts, backend, device, shared_prefix),
        longest_row=max(n.position + n.end - n.start for n in tree.nodes),
        shared_prefix=shared_prefix,
    )


def _plan_segments(
    tree: PrefixTree,
    is_query: NDArray[np.bool_],
    backend: AttentionBackend,
    device: torch.device,
    shared_prefix: SharedPrefix | None,
) -> SegmentPlan:
    """Plan the segments for the tokens that have queries, ``is_query`` ``[T]``."""
    causal, dense = backend.segments(tree, np.concatenate([[0], np.cumsum(is_query)]).tolist(), device)
    return SegmentPlan(
        causal=causal,
        dense=dense,
        shared_prefix=(
            backend.prefix_segment(int(is_query.sum()), shared_prefix.tokens, device) if shared_prefix else None
        ),
        queries=None if is_query.all() else to_device(np.flatnonzero(is_query), device),
    )


def attend(q: Tensor, k: Tensor, v: Tensor, plan: SegmentPlan, prefix: LayerPrefix | None, *, scale: float) -> Tensor:
    """Compute the attention of one pack over its tree.

    Args:
        q: Queries ``[1, Hq, T, D]``.
        k: Keys ``[1, Hk, T, D]``, with ``Hq`` a multiple of ``Hk``.
        v: Values ``[1, Hk, T, D]``.
        plan: The layer's segments.
        prefix: The shared prefix in this layer, if ``plan`` has a segment for it.
        scale: Factor of the products ``q k``.

    Returns:
        ``[1, T, Hq, D]``, as transformers' attention functions return it; zeros for tokens without a query.
    """
    # Heads are side by side in a token's memory, so that gathering and scattering tokens moves whole rows.
    queries = group_heads(q[0].transpose(0, 1), q.shape[1] // k.shape[1])
    keys, values = (x[0].transpose(0, 1) for x in (k, v))
    if plan.queries is None:
        whole: Tensor = _Attend.apply(queries, keys, values, plan, prefix, scale)
        return whole[None]
    out: Tensor = _Attend.apply(queries[plan.queries], keys, values, plan, prefix, scale)
    return out.new_zeros((1, q.shape[2], *out.shape[1:])).index_copy(1, plan.queries, out[None])


class _Attend(torch.autograd.Function):
    """Attention of queries ``[Q, H, G, D]`` to keys and values ``[T, H, D]``; outputs ``[Q, H G, D]``."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: SegmentPlan, prefix: LayerPrefix | None, scale: float
    ) -> Tensor:
        # Outputs of segments are combined in float32, whatever the model's dtype.
        out = torch.empty((*q.shape[:3], v.shape[2]), dtype=torch.float32, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        for segment in plan.causal:
            segment_out, segment_lse = segment.forward(q, k, v, scale=scale)
            _store(out, segment.queries, segment_out)
            _store(lse, segment.queries, segment_lse)
        for segment in plan.dense:
            _combine(out, lse, segment.queries, *segment.forward(q, k, v, scale=scale))
        if plan.shared_prefix:
            assert prefix
            segment = plan.shared_prefix
            _combine(out, lse, segment.queries, *segment.forward(q, prefix.keys, prefix.values, scale=scale))
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan, ctx.prefix, ctx.scale = plan, prefix, scale
        return out.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        plan, prefix, scale = ctx.plan, ctx.prefix, ctx.scale
        grad = group_heads(grad.contiguous(), q.shape[2])
        dq = torch.empty(q.shape, dtype=torch.float32, device=q.device)
        # Keys that are in dense segments only get their gradients by addition, so they must start at zero.
        new = torch.empty if plan.queries is None else torch.zeros
        dk, dv = (new(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        for segment in plan.causal:
            gradients = segment.backward(grad, q, k, v, out, lse, scale=scale)
            indices = segment.queries, segment.keys, segment.keys
            for total, index, gradient in zip((dq, dk, dv), indices, gradients, strict=True):
                _store(total, index, gradient)
        for segment in plan.dense:
            gradients = segment.backward(grad, q, k, v, out, lse, scale=scale)
            indices = segment.queries, segment.keys, segment.keys
            for total, index, gradient in zip((dq, dk, dv), indices, gradients, strict=True):
                total[index] += gradient
        if plan.shared_prefix:
            gradients = plan.shared_prefix.backward(grad, q, prefix.keys, prefix.values, out, lse, scale=scale)
            for total, gradient in zip((dq, prefix.key_grads, prefix.value_grads), gradients, strict=True):
                total.add_(gradient)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None


def group_heads(x: Tensor, groups: int) -> Tensor:
    """Return ``x`` ``[T, H G, ...]`` as ``[T, H, G, ...]``, without a copy."""
    return x.view(x.shape[0], -1, groups, *x.shape[2:])


def _store(total: Tensor, index: TokenIndex, x: Tensor) -> None:
    total[index] = x if isinstance(index, slice) else x.to(total.dtype)  # assigning to a range casts on the way


def _combine(out: Tensor, lse: Tensor, index: TokenIndex, segment_out: Tensor, segment_lse: Tensor) -> None:
    """Combine ``out`` and ``lse`` in place with a segment's outputs over other keys.

    Args:
        out: Outputs ``[Q, H, G, D]`` so far.
        lse: Log-sum-exps ``[Q, H, G]`` so far.
        index: The segment's R queries.
        segment_out: Outputs ``[R, H, G, D]`` of the segment.
        segment_lse: Log-sum-exps ``[R, H, G]`` of the segment.
    """
    own, own_lse = out[index], lse[index]
    own.lerp_(segment_out.to(out.dtype), torch.sigmoid(segment_lse - own_lse).unsqueeze(-1))
    torch.logaddexp(own_lse, segment_lse, out=own_lse)
    out[index], lse[index] = own, own_lse  # for a range these are views, and nothing is copied
