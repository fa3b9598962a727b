"""Attention over a prefix tree without a mask, exact in values and gradients.

Every token attends to all tokens of the nodes above its own, and causally within its own. Each of these is a plain
dense or causal attention; their outputs are merged by their log-sum-exp, as flash attention merges blocks of keys
(Dao et al. 2022, section 3.1). Backwards, a part's probabilities are ``exp(q k - lse)`` with the MERGED log-sum-exp,
and the softmax's correction needs the MERGED output only, so a fused backward that is called with both gives that
part's exact gradients of keys and values, and the parts' gradients of the queries add up.

The calls that each device uses are in ``cpu`` and, for CUDA, in ``varlen``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from promptintern.engine.attention.prefix_tree import PrefixTree
from promptintern.engine.attention.shared_prefix import Above, Trunk
from promptintern.engine.device import moved

Tensor = torch.Tensor
Where = slice | Tensor
"""Places of tokens: of a range, or ``[R]`` int64, none twice."""


class Part(Protocol):
    """Attention of some queries to some keys, in one call of a kernel.

    Shapes: queries and outputs ``[Q, H, G, D]``, of which G have the same keys and values ``[T, H, D]``; log-sum-exps
    ``[Q, H, G]`` float32. A part is given those of all tokens, and gives those of its own R queries and S keys.
    """

    @property
    def queries(self) -> Where:
        """Its queries among those of the pack."""
        ...

    @property
    def keys(self) -> Where:
        """Its keys among those of the pack."""
        ...

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of its queries."""
        ...

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of its queries, keys and values, from the merged ``out`` and ``lse``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The attention calls of a layer.

    Attributes:
        causal: Of tokens of one node among themselves. Every query is in one of these, every key in at most one.
        dense: Of tokens to all of a node above.
        trunk: Of all queries to all of the trunk; None if there is none.
        queries: ``[Q]``, the places of the tokens that are queries; None if all are.
    """

    causal: tuple[Part, ...]
    dense: tuple[Part, ...]
    trunk: Part | None
    queries: Tensor | None


class Planner(Protocol):
    """How a device computes attention over trees.

    ``long``: tokens from which a node has a call of its own.
    ``least_saved``: tokens that a node has to save, since its attention is a call, or part of one, in every layer.
    ``trunk_saves``: tokens that a trunk has to save a worker, since it is a pass of its own; None where no trunk pays.
    """

    long: int
    least_saved: int
    trunk_saves: int | None

    def parts(
        self, tree: PrefixTree, before: Sequence[int], device: torch.device
    ) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """``Calls.causal`` and ``Calls.dense``.

        Args:
            before: ``[T + 1]``, how many of the tokens before each place are queries: of every node all, none, or a
                last part.
        """
        ...

    def to_trunk(self, queries: int, tokens: int, device: torch.device) -> Part:
        """``Calls.trunk``, of so many queries to so many tokens."""
        ...


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """Attention over a tree."""

    every: Calls
    """Of every layer but the last."""
    last: Calls
    """Of the last layer, where only tokens that predict an answer token need to attend."""
    longest: int
    """Tokens that the longest row has."""
    trunk: Trunk | None = None
    """Which is above all of the tree."""
    becomes: Trunk | None = None
    """The trunk that this pack is."""


def cascade_of(tree: PrefixTree, planner: Planner, *, device: torch.device, trunk: Trunk | None = None) -> Cascade:
    """The attention calls of ``tree`` on ``device``, as ``planner`` makes them for it."""
    predicting = np.zeros(tree.tokens, dtype=bool)
    leaves = (node for node in tree.nodes if node.stop == node.end)
    for node, answer in zip(leaves, tree.answer, strict=True):
        first = answer - 1
        if first - node.start < planner.long:  # a call of its own would cost more than it saves
            first = node.start
        predicting[first : node.end] = True
    return Cascade(
        every=_calls(tree, np.ones(tree.tokens, dtype=bool), planner, device, trunk),
        last=_calls(tree, predicting, planner, device, trunk),
        longest=max(n.begin + n.end - n.start for n in tree.nodes),
        trunk=trunk,
    )


def _calls(
    tree: PrefixTree, asks: NDArray[np.bool_], planner: Planner, device: torch.device, trunk: Trunk | None
) -> Calls:
    """The calls for the tokens that are queries, ``asks`` ``[T]``."""
    causal, dense = planner.parts(tree, np.concatenate([[0], np.cumsum(asks)]).tolist(), device)
    return Calls(
        causal=causal,
        dense=dense,
        trunk=planner.to_trunk(int(asks.sum()), trunk.tokens, device) if trunk else None,
        queries=None if asks.all() else moved(np.flatnonzero(asks), device),
    )


def attend(q: Tensor, k: Tensor, v: Tensor, calls: Calls, above: Above | None, *, scale: float) -> Tensor:
    """Attention of one pack over its tree.

    Args:
        q: ``[1, Hq, T, D]``.
        k: ``[1, Hk, T, D]``, ``Hq`` a multiple of ``Hk``.
        v: As ``k``.
        calls: What attends to what.
        above: The trunk, if ``calls`` has a call to it.
        scale: Of the products.

    Returns:
        ``[1, T, Hq, D]``, as transformers' attention functions give it; zeros for tokens that are no queries.
    """
    # Heads are side by side in a token's memory, so that gathering and scattering tokens moves whole rows.
    asking = grouped(q[0].transpose(0, 1), q.shape[1] // k.shape[1])
    keys, values = (x[0].transpose(0, 1) for x in (k, v))
    if calls.queries is None:
        whole: Tensor = _Attend.apply(asking, keys, values, calls, above, scale)
        return whole[None]
    out: Tensor = _Attend.apply(asking[calls.queries], keys, values, calls, above, scale)
    return out.new_zeros((1, q.shape[2], *out.shape[1:])).index_copy(1, calls.queries, out[None])


class _Attend(torch.autograd.Function):
    """Queries ``[Q, H, G, D]``, of which G have the same keys and values ``[T, H, D]``, to outputs ``[Q, H G, D]``."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, calls: Calls, above: Above | None, scale: float) -> Tensor:
        # Partial results are added up in float32, whatever the model computes in.
        out = torch.empty((*q.shape[:3], v.shape[2]), dtype=torch.float32, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        for part in calls.causal:
            found, found_lse = part.forward(q, k, v, scale=scale)
            _put(out, part.queries, found)
            _put(lse, part.queries, found_lse)
        for part in calls.dense:
            _merge(out, lse, part.queries, *part.forward(q, k, v, scale=scale))
        if calls.trunk:
            assert above
            _merge(out, lse, calls.trunk.queries, *calls.trunk.forward(q, above.keys, above.values, scale=scale))
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.calls, ctx.above, ctx.scale = calls, above, scale
        return out.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        calls, above, scale = ctx.calls, ctx.above, ctx.scale
        grad = grouped(grad.contiguous(), q.shape[2])
        dq = torch.empty(q.shape, dtype=torch.float32, device=q.device)
        # Keys that only dense calls take come to their gradients by addition.
        new = torch.empty if calls.queries is None else torch.zeros
        dk, dv = (new(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        for part in calls.causal:
            parts = part.backward(grad, q, k, v, out, lse, scale=scale)
            for total, where, gradient in zip((dq, dk, dv), (part.queries, part.keys, part.keys), parts, strict=True):
                _put(total, where, gradient)
        for part in calls.dense:
            parts = part.backward(grad, q, k, v, out, lse, scale=scale)
            for total, where, gradient in zip((dq, dk, dv), (part.queries, part.keys, part.keys), parts, strict=True):
                total[where] += gradient
        if calls.trunk:
            parts = calls.trunk.backward(grad, q, above.keys, above.values, out, lse, scale=scale)
            for total, gradient in zip((dq, above.key_grads, above.value_grads), parts, strict=True):
                total.add_(gradient)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None


def grouped(x: Tensor, groups: int) -> Tensor:
    """``[T, H G, ...]`` to ``[T, H, G, ...]``, without a copy."""
    return x.view(x.shape[0], -1, groups, *x.shape[2:])


def _put(total: Tensor, where: Where, part: Tensor) -> None:
    total[where] = part if isinstance(where, slice) else part.to(total.dtype)  # into a range it is cast on the way


def _merge(out: Tensor, lse: Tensor, where: Where, part: Tensor, part_lse: Tensor) -> None:
    """Take the outputs over other keys, ``[R, H, G, D]`` with log-sum-exps ``[R, H, G]``, into ``out`` and ``lse``."""
    own, own_lse = out[where], lse[where]
    own.lerp_(part.to(out.dtype), torch.sigmoid(part_lse - own_lse).unsqueeze(-1))
    torch.logaddexp(own_lse, part_lse, out=own_lse)
    out[where], lse[where] = own, own_lse  # of a range these are views, and nothing is copied
