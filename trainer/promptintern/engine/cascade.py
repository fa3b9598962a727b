"""Attention over a prefix tree without a mask, exact in values and gradients.

Every token attends to all tokens of the nodes above its own, and causally within its own. Each of these is a plain
dense or causal attention; their outputs are merged by their log-sum-exp, as flash attention merges blocks of keys
(Dao et al. 2022, section 3.1). Backwards, a part's probabilities are ``exp(q k - lse)`` with the MERGED log-sum-exp,
and the softmax's correction needs the MERGED output only, so a fused backward that is called with both gives that
part's exact gradients of keys and values, and the parts' gradients of the queries add up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from promptintern.engine.tree import PrefixTree

Tensor = torch.Tensor


class Kernel(Protocol):
    """Fused attention that takes and gives log-sum-exps.

    ``long``: tokens from which a call of its own costs less than copying a node's rows to those of others and back.

    Shapes: queries ``[B, H, Q, D]``, keys and values ``[B, H, K, D]``, log-sum-exps ``[B, H, Q]`` float32.
    """

    long: int

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        """Output ``[B, H, Q, D]`` and log-sum-exp."""
        ...

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values; ``out`` and ``lse`` may be merged ones."""
        ...


class CpuKernel:
    """The flash attention of PyTorch for CPUs."""

    long = 48

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
        return out, lse

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal, scale=scale
        )
        return dq, dk, dv


class CudaKernel:
    """PyTorch's memory-efficient attention, which takes float32 and bfloat16 alike."""

    long = 1024  # launching a kernel costs more than copying
    _ALIGNED = 32  # it pads log-sum-exps to a multiple of this

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        out, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
            q, k, v, None, True, 0.0, causal, scale=scale
        )
        return out, lse[..., : q.shape[2]]

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        padded = F.pad(lse, (0, -lse.shape[-1] % self._ALIGNED), value=float("inf")).contiguous()
        zero = torch.zeros((), dtype=torch.int64)  # the state of a dropout that there is not
        dq, dk, dv, _ = torch.ops.aten._efficient_attention_backward(
            *(x.transpose(1, 2) for x in (grad, q, k, v)),
            None,
            out.transpose(1, 2),
            None,
            None,
            q.shape[2],
            k.shape[2],
            padded,
            0.0,
            zero,
            zero,
            int(causal),
            False,
            scale=scale,
            num_splits_key=1,  # with more, sums are taken in no certain order
        )
        return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


def kernel_of(device: torch.device) -> Kernel | None:
    """The device's kernel; None where there is none, and packs are computed with a mask."""
    kernels: dict[str, Kernel] = {"cpu": CpuKernel(), "cuda": CudaKernel()}
    return kernels.get(device.type)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Short pieces of about one length, for one causal call.

    Attributes:
        places: ``[N, L]``, where the pieces' tokens are; a shorter piece's last token fills its row up, which nobody
            before it attends to.
        real: ``[N, L]`` bool, False for what was filled up.
        where: ``[R]`` each, rows and columns of what is real.
        flat: ``[R]``, the places that are real, in order.
    """

    places: Tensor
    real: Tensor
    where: tuple[Tensor, Tensor]
    flat: Tensor

    def take(self, x: Tensor) -> Tensor:
        """``[T, H, G, D]`` to ``[N, H G, L, D]``."""
        return x[self.places].flatten(2, 3).transpose(1, 2)

    def give(self, part: Tensor, groups: int) -> Tensor:
        """``[N, H G, L, ...]`` to ``[R, H, G, ...]``."""
        return _grouped(part.transpose(1, 2)[self.where], groups)

    def without_filling(self, x: Tensor) -> Tensor:
        """``[N, H G, L, D]`` with zeros for what was filled up."""
        return x * self.real[:, None, :, None]


@dataclass(frozen=True, kw_only=True)
class Span:
    """One long piece, for a causal call without copies."""

    flat: slice

    def take(self, x: Tensor) -> Tensor:
        """``[T, H, G, D]`` to ``[G, H, L, D]``."""
        return x[self.flat].transpose(0, 2)

    def give(self, part: Tensor, groups: int) -> Tensor:
        """``[G, H, L, ...]`` to ``[L, H, G, ...]``."""
        return part.transpose(0, 2)

    def without_filling(self, x: Tensor) -> Tensor:
        """``x``."""
        return x


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The attention calls of a layer.

    Attributes:
        causal: Tokens of one node among themselves: where they are among the queries, and among the keys.
        dense: Places of keys, and of the queries that attend to all of them.
        queries: ``[Q]``, the places of the tokens that are queries; None if all are.
    """

    causal: tuple[tuple[Bucket | Span, Bucket | Span], ...]
    dense: tuple[tuple[slice, slice], ...]
    queries: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """Attention over a tree."""

    every: Calls
    """Of every layer but the last."""
    last: Calls
    """Of the last layer, where only tokens that predict an answer token need to attend."""
    longest: int
    """Tokens that the longest row has."""
    kernel: Kernel


_MAX_FILL = 0.15
"""Of a bucket's longest piece, what a shorter one may lack."""


def cascade_of(tree: PrefixTree, *, device: torch.device) -> Cascade:
    """The attention calls of ``tree`` on ``device``, which must have a kernel."""
    kernel = kernel_of(device)
    assert kernel is not None
    predicting = np.zeros(tree.tokens, dtype=bool)
    leaves = (node for node in tree.nodes if node.stop == node.end)
    for node, answer in zip(leaves, tree.answer, strict=True):
        first = answer - 1
        if first - node.start < kernel.long:  # a call of its own would cost more than it saves
            first = node.start
        predicting[first : node.end] = True
    return Cascade(
        every=_calls(tree, np.ones(tree.tokens, dtype=bool), kernel, device),
        last=_calls(tree, predicting, kernel, device),
        longest=max(n.begin + n.end - n.start for n in tree.nodes),
        kernel=kernel,
    )


def _calls(tree: PrefixTree, asks: NDArray[np.bool_], kernel: Kernel, device: torch.device) -> Calls:
    """The calls for the tokens that are queries, ``asks`` ``[T]``: of every node all, none, or a last part."""
    before = np.concatenate([[0], np.cumsum(asks)]).tolist()
    pieces, dense = [], []
    for node in tree.nodes:
        first, last = before[node.start], before[node.end]
        cut = node.end - (last - first)
        if first < last:
            pieces.append(_Piece(query=first, key=cut, tokens=last - first))
            if node.start < cut:
                dense.append((slice(node.start, cut), slice(first, last)))
        if node.end < node.stop:
            dense.append((slice(node.start, node.end), slice(last, before[node.stop])))
    short = [piece for piece in pieces if piece.tokens < kernel.long]
    return Calls(
        causal=(
            *(
                (Span(flat=slice(p.query, p.query + p.tokens)), Span(flat=slice(p.key, p.key + p.tokens)))
                for p in pieces
                if p.tokens >= kernel.long
            ),
            *(_buckets(group, device) for group in _by_length(short)),
        ),
        dense=tuple(dense),
        queries=None if asks.all() else torch.from_numpy(np.flatnonzero(asks)).to(device),
    )


class _Piece(NamedTuple):
    """Tokens of one node that are queries, and keys to each other."""

    query: int
    key: int
    tokens: int


def _by_length(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    group: list[_Piece] = []
    for piece in sorted(pieces, key=lambda p: -p.tokens):
        if group and piece.tokens < (1 - _MAX_FILL) * group[0].tokens:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _buckets(pieces: list[_Piece], device: torch.device) -> tuple[Bucket, Bucket]:
    """Of queries and of keys."""
    query, key, tokens = torch.tensor(pieces).T[:, :, None]
    within = torch.arange(pieces[0].tokens)[None, :]
    real = within < tokens
    within = torch.minimum(within, tokens - 1)
    rows, columns = (place.to(device) for place in real.nonzero(as_tuple=True))

    def at(start: Tensor) -> Bucket:
        places = start + within
        return Bucket(
            places=places.to(device), real=real.to(device), where=(rows, columns), flat=places[real].to(device)
        )

    return at(query), at(key)


def attend(q: Tensor, k: Tensor, v: Tensor, calls: Calls, kernel: Kernel, *, scale: float) -> Tensor:
    """Attention of one pack over its tree.

    Args:
        q: ``[1, Hq, T, D]``.
        k: ``[1, Hk, T, D]``, ``Hq`` a multiple of ``Hk``.
        v: As ``k``.
        calls: What attends to what.
        kernel: Of the device that these are on.
        scale: Of the products.

    Returns:
        ``[1, T, Hq, D]``, as transformers' attention functions give it; zeros for tokens that are no queries.
    """
    # Heads are side by side in a token's memory, so that gathering and scattering tokens moves whole rows.
    asking = _grouped(q[0].transpose(0, 1), q.shape[1] // k.shape[1])
    keys, values = (x[0].transpose(0, 1) for x in (k, v))
    if calls.queries is None:
        whole: Tensor = _Attend.apply(asking, keys, values, calls, kernel, scale)
        return whole[None]
    out: Tensor = _Attend.apply(asking[calls.queries], keys, values, calls, kernel, scale)
    return out.new_zeros((1, q.shape[2], *out.shape[1:])).index_copy(1, calls.queries, out[None])


class _Attend(torch.autograd.Function):
    """Queries ``[Q, H, G, D]``, of which G have the same keys and values ``[T, H, D]``, to outputs ``[Q, H G, D]``.

    In calls without copies the G stand side by side like rows of a batch, whose keys are one and the same memory.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, calls: Calls, kernel: Kernel, scale: float) -> Tensor:
        # Partial results are added up in float32, whatever the model computes in.
        out = torch.empty((*q.shape[:3], v.shape[2]), dtype=torch.float32, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        groups = q.shape[2]
        keys, values = _repeated(k, groups), _repeated(v, groups)
        for asking, asked in calls.causal:
            part, part_lse = kernel.forward(
                asking.take(q), asked.take(keys), asked.take(values), causal=True, scale=scale
            )
            out[asking.flat] = asking.give(part, groups).to(out.dtype)
            lse[asking.flat] = asking.give(part_lse, groups)
        for own, below in calls.dense:
            part, part_lse = kernel.forward(
                q[below].transpose(0, 2),
                keys[own].transpose(0, 2),
                values[own].transpose(0, 2),
                causal=False,
                scale=scale,
            )
            _merge(out[below], lse[below], part.transpose(0, 2), part_lse.transpose(0, 2))
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.calls, ctx.kernel, ctx.scale = calls, kernel, scale
        return out.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        calls, kernel, scale = ctx.calls, ctx.kernel, ctx.scale
        groups = q.shape[2]
        grad = _grouped(grad.contiguous(), groups)
        keys, values = _repeated(k, groups), _repeated(v, groups)
        dq = torch.empty(q.shape, dtype=torch.float32, device=q.device)
        # Keys that only dense calls take come to their gradients by addition.
        new = torch.empty if calls.queries is None else torch.zeros
        dk, dv = (new(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        for asking, asked in calls.causal:
            parts = kernel.backward(
                asking.without_filling(asking.take(grad)),
                asking.take(q),
                asked.take(keys),
                asked.take(values),
                asking.take(out),
                asking.take(lse[..., None])[..., 0],
                causal=True,
                scale=scale,
            )
            dq[asking.flat] = asking.give(parts[0], groups).to(dq.dtype)
            for total, part in ((dk, parts[1]), (dv, parts[2])):
                total[asked.flat] = asked.give(part, groups).sum(2, dtype=total.dtype)
        for own, below in calls.dense:
            parts = kernel.backward(
                *(x[below].transpose(0, 2) for x in (grad, q)),
                *(x[own].transpose(0, 2) for x in (keys, values)),
                *(x[below].transpose(0, 2) for x in (out, lse)),
                causal=False,
                scale=scale,
            )
            dq[below] += parts[0].transpose(0, 2)
            for total, part in ((dk, parts[1]), (dv, parts[2])):
                total[own] += part.transpose(0, 2).sum(2, dtype=total.dtype)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None


def _grouped(x: Tensor, groups: int) -> Tensor:
    """``[T, H G, ...]`` to ``[T, H, G, ...]``, without a copy."""
    return x.view(x.shape[0], -1, groups, *x.shape[2:])


def _repeated(x: Tensor, groups: int) -> Tensor:
    """``[T, H, D]`` to ``[T, H, G, D]``, without a copy."""
    return x.unsqueeze(2).expand(-1, -1, groups, -1)


def _merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Take the outputs over other keys, ``[Q, H, G, D]`` with log-sum-exps ``[Q, H, G]``, into ``out`` and ``lse``."""
    weight = torch.sigmoid(part_lse - lse).unsqueeze(-1)
    out.lerp_(part.to(out.dtype), weight)
    torch.logaddexp(lse, part_lse, out=lse)
