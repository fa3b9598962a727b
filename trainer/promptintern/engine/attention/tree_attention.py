"""Attention over a prefix tree without a mask, exact in values and gradients.

This is cascade attention (FlashInfer's cascade inference; Hydragen, Juravsky et al. 2024, arXiv 2402.05099) with a
backward pass. Every token attends to all tokens of the nodes above its own node, and causally to the tokens within its
own node. The computation is split into plain dense or causal attention calls, called segments. The outputs of the
segments are combined by their log-sum-exps, as flash attention combines blocks of keys (Dao et al. 2022, section 3.1).

In the backward pass, the probabilities of a segment are ``exp(q k - lse)`` with the COMBINED log-sum-exp, and the
correction term of the softmax needs only the COMBINED output. So a fused backward kernel that is called with the
combined output and log-sum-exp returns the exact gradients of the segment's keys and values, and the gradients of the
queries are the sums over all segments.

The segments for CPUs are in ``cpu``, and the segments for CUDA are in ``varlen``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from promptintern.engine.attention.prefix_tree import PrefixTree
from promptintern.engine.attention.shared_prefix import LayerKeys, LayerPrefix, Prefix, Recorder
from promptintern.engine.device import to_device

Tensor = torch.Tensor
TokenIndex = slice | Tensor
"""The indices of tokens: a range, or an int64 tensor ``[R]`` without duplicates."""


class Segment(Protocol):
    """The attention of a range of queries to a range of keys, in one kernel call.

    Shapes: queries and outputs ``[Q, H, G, D]``, where G query heads share one of the H heads of the keys and values
    ``[T, H, D]``; log-sum-exps ``[Q, H, G]`` float32. The methods take the tensors of all tokens, and return tensors
    for the segment's R queries and S keys.
    """

    @property
    def queries(self) -> TokenIndex:
        """The indices of the segment's queries among the queries of the pack."""
        ...

    @property
    def keys(self) -> TokenIndex:
        """The indices of the segment's keys among the keys of the pack."""
        ...

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        """Return the outputs and the log-sum-exps of the segment's queries."""
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
        causal: The segments in which tokens attend causally to tokens of their own node. Every query is in exactly one
            of these segments, and every key in at most one.
        dense: The segments in which tokens attend to all tokens of a node above their own node.
        shared_prefix: The segment in which all queries attend to the whole shared prefix; None without a shared prefix.
        queries: The indices ``[Q]`` of the tokens that have queries; None if all tokens have queries.
    """

    causal: tuple[Segment, ...]
    dense: tuple[Segment, ...]
    shared_prefix: Segment | None
    queries: Tensor | None


class AttentionBackend(Protocol):
    """The interface of the tree-attention backend for one kind of device.

    Attributes:
        min_call_tokens: The number of tokens from which a node gets its own kernel call.
        min_node_savings: The minimum number of tokens that a shared node must save, because sharing costs a kernel
            call, or part of one, in every layer.
        min_prefix_savings: The minimum number of tokens that a shared prefix must save each worker, because the prefix
            costs an extra pass through the model; None if this pass is never worth its cost.
    """

    min_call_tokens: int
    min_node_savings: int
    min_prefix_savings: int | None

    def segments(
        self, tree: PrefixTree, queries_before: Sequence[int], device: torch.device
    ) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
        """Return the causal and the dense segments for ``tree``; see ``SegmentPlan``.

        Args:
            queries_before: The number of queries before every token index in ``0..T``, ``[T + 1]``. In each node, all
                tokens, no token, or only the last few tokens have queries.
        """
        ...

    def prefix_segment(self, queries: int, tokens: int, device: torch.device) -> Segment:
        """Return the segment in which all queries attend to the shared prefix; see ``SegmentPlan``.

        Args:
            queries: The number of queries, all of which attend to the whole prefix.
            tokens: The number of tokens in the prefix.
        """
        ...


class PackAttention(Protocol):
    """Computes the attention of one call of the model, in every layer."""

    @property
    def longest_row(self) -> int:
        """The number of tokens in the longest row of the call."""
        ...

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, *, is_last: bool, scale: float) -> Tensor:
        """Return the attention of one layer.

        Args:
            module: The layer's attention module.
            q: The queries ``[1, Hq, T, D]``.
            k: The keys ``[1, Hk, T, D]``, with ``Hq`` a multiple of ``Hk``.
            v: The values ``[1, Hk, T, D]``.
            is_last: Whether the layer is the last one.
            scale: The factor by which the products ``q k`` are multiplied.

        Returns:
            The outputs ``[1, T, Hq, D]``.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TreeAttention:
    """The plan for the attention of a pack over its prefix tree, with the shared prefix if there is one."""

    inner_layers: SegmentPlan
    """The segments of every layer except the last."""
    last_layer: SegmentPlan
    """The segments of the last layer, in which only tokens that predict an answer token need to attend."""
    longest_row: int
    """The number of tokens in the longest row of the pack."""
    shared_prefix: Prefix | None = None
    """The shared prefix above the whole tree, if there is one."""
    recorder: Recorder | None = None
    """What keeps the keys and values of this pack's tokens, if they are needed again."""

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, *, is_last: bool, scale: float) -> Tensor:
        """Return the attention of one layer; see ``PackAttention.attend``. Tokens without a query get zeros."""
        if self.recorder:
            self.recorder.record(module, (k, v))
        prefix = self.shared_prefix.of_layer(module) if self.shared_prefix else None
        return attend(q, k, v, self.last_layer if is_last else self.inner_layers, prefix, scale=scale)


def plan_tree_attention(
    tree: PrefixTree, backend: AttentionBackend, *, device: torch.device, shared_prefix: Prefix | None = None
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
    shared_prefix: Prefix | None,
) -> SegmentPlan:
    """Plan the segments of a layer in which only the tokens marked in ``is_query`` ``[T]`` have queries."""
    causal, dense = backend.segments(tree, np.concatenate([[0], np.cumsum(is_query)]).tolist(), device)
    return SegmentPlan(
        causal=causal,
        dense=dense,
        shared_prefix=(
            backend.prefix_segment(int(is_query.sum()), shared_prefix.tokens, device) if shared_prefix else None
        ),
        queries=None if is_query.all() else to_device(np.flatnonzero(is_query), device),
    )


def attend(q: Tensor, k: Tensor, v: Tensor, plan: SegmentPlan, prefix: LayerKeys | None, *, scale: float) -> Tensor:
    """Compute the attention of one pack over its prefix tree in one layer.

    Args:
        q: The queries ``[1, Hq, T, D]``.
        k: The keys ``[1, Hk, T, D]``, with ``Hq`` a multiple of ``Hk``.
        v: The values ``[1, Hk, T, D]``.
        plan: The layer's segments.
        prefix: The shared prefix in this layer, if ``plan`` has a segment for it.
        scale: The factor by which the products ``q k`` are multiplied.

    Returns:
        The outputs ``[1, T, Hq, D]``, as transformers' attention functions return them; zeros for tokens without a
            query.
    """
    # The heads of a token are adjacent in memory, so that gathering and scattering tokens moves whole rows.
    queries = group_heads(q[0].transpose(0, 1), q.shape[1] // k.shape[1])
    keys, values = (x[0].transpose(0, 1) for x in (k, v))
    if plan.queries is None:
        whole: Tensor = _Attend.apply(queries, keys, values, plan, prefix, scale)
        return whole[None]
    out: Tensor = _Attend.apply(queries[plan.queries], keys, values, plan, prefix, scale)
    return out.new_zeros((1, q.shape[2], *out.shape[1:])).index_copy(1, plan.queries, out[None])


class _Attend(torch.autograd.Function):
    """The autograd function for the attention of queries ``[Q, H, G, D]`` to keys and values ``[T, H, D]``.

    The outputs are ``[Q, H G, D]``.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: SegmentPlan, prefix: LayerKeys | None, scale: float
    ) -> Tensor:
        # The outputs of segments are combined in float32 for any dtype of the model.
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
        # Keys that are only in dense segments get their gradients by addition, so the gradients must start at zero.
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
            assert isinstance(prefix, LayerPrefix)
            gradients = plan.shared_prefix.backward(grad, q, prefix.keys, prefix.values, out, lse, scale=scale)
            for total, gradient in zip((dq, prefix.key_grads, prefix.value_grads), gradients, strict=True):
                total.add_(gradient)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None


def group_heads(x: Tensor, groups: int) -> Tensor:
    """Return ``x`` ``[T, H G, ...]`` as ``[T, H, G, ...]``, without a copy."""
    return x.view(x.shape[0], -1, groups, *x.shape[2:])


def _store(total: Tensor, index: TokenIndex, x: Tensor) -> None:
    total[index] = x if isinstance(index, slice) else x.to(total.dtype)  # assigning to a range converts the dtype


def _combine(out: Tensor, lse: Tensor, index: TokenIndex, segment_out: Tensor, segment_lse: Tensor) -> None:
    """Combine ``out`` and ``lse`` in place with the outputs and log-sum-exps of a segment that has other keys.

    Args:
        out: The outputs ``[Q, H, G, D]`` over the keys of all segments combined so far.
        lse: The log-sum-exps ``[Q, H, G]`` over the same keys as ``out``.
        index: The indices of the segment's R queries.
        segment_out: The outputs ``[R, H, G, D]`` of the segment.
        segment_lse: The log-sum-exps ``[R, H, G]`` of the segment.
    """
    own, own_lse = out[index], lse[index]
    own.lerp_(segment_out.to(out.dtype), torch.sigmoid(segment_lse - own_lse).unsqueeze(-1))
    torch.logaddexp(own_lse, segment_lse, out=own_lse)
    out[index], lse[index] = own, own_lse  # for a range, these are views, and nothing is copied
