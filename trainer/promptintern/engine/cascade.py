"""Attention over a prefix tree without a mask, exact in values and gradients.

Every token attends to all tokens of the nodes above its own, and causally within its own. Each of these is a plain
dense or causal attention; their outputs are merged by their log-sum-exp, as flash attention merges blocks of keys
(Dao et al. 2022, section 3.1). Backwards, a part's probabilities are ``exp(q k - lse)`` with the MERGED log-sum-exp,
and the softmax's correction needs the MERGED output only, so a fused backward that is called with both gives that
part's exact gradients of keys and values, and the parts' gradients of the queries add up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from promptintern.engine.tree import Node, PrefixTree

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
    """Short nodes of about one length, for one causal call.

    Attributes:
        places: ``[N, L]``, the tokens' places in the pack; a shorter node's last token fills its row up, which nobody
            before it attends to.
        real: ``[N, L]`` bool, False for what was filled up.
        flat: ``[R]``, the places that are real, in order.
    """

    places: Tensor
    real: Tensor
    flat: Tensor

    def take(self, x: Tensor) -> Tensor:
        """``[T, H, D]`` to ``[N, H, L, D]``."""
        return x[self.places].transpose(1, 2)

    def put(self, total: Tensor, part: Tensor) -> None:
        """``part`` ``[N, H, L, ...]`` to its places in ``total`` ``[T, H, ...]``."""
        total[self.flat] = part.transpose(1, 2)[self.real].to(total.dtype)

    def without_filling(self, x: Tensor) -> Tensor:
        """``[N, H, L, D]`` with zeros for what was filled up."""
        return x * self.real[:, None, :, None]


@dataclass(frozen=True, kw_only=True)
class Span:
    """One long node, for a causal call without copies."""

    own: slice

    def take(self, x: Tensor) -> Tensor:
        """``[T, H, D]`` to ``[1, H, L, D]``."""
        return _heads(x[self.own])

    def put(self, total: Tensor, part: Tensor) -> None:
        """``part`` ``[1, H, L, ...]`` to its place in ``total`` ``[T, H, ...]``."""
        total[self.own] = part[0].transpose(0, 1)

    def without_filling(self, x: Tensor) -> Tensor:
        """``x``."""
        return x


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """The attention calls of a tree."""

    causal: tuple[Bucket | Span, ...]
    """Every node's tokens among themselves."""
    shared: tuple[tuple[slice, slice], ...]
    """Of every node with descendants, its own tokens' places and its descendants'."""
    longest: int
    """Tokens that the longest row has."""
    kernel: Kernel


_MAX_FILL = 0.15
"""Of a bucket's longest node, what a shorter one may lack."""


def cascade_of(tree: PrefixTree, *, device: torch.device) -> Cascade:
    """The attention calls of ``tree`` on ``device``, which must have a kernel."""
    kernel = kernel_of(device)
    assert kernel is not None
    short = [node for node in tree.nodes if node.end - node.start < kernel.long]
    return Cascade(
        causal=(
            *(Span(own=slice(n.start, n.end)) for n in tree.nodes if n.end - n.start >= kernel.long),
            *(_bucket(nodes, device) for nodes in _by_length(short)),
        ),
        shared=tuple((slice(n.start, n.end), slice(n.end, n.stop)) for n in tree.nodes if n.stop > n.end),
        longest=max(n.begin + n.end - n.start for n in tree.nodes),
        kernel=kernel,
    )


def _by_length(nodes: list[Node]) -> Iterator[list[Node]]:
    group: list[Node] = []
    for node in sorted(nodes, key=lambda n: n.start - n.end):
        if group and node.end - node.start < (1 - _MAX_FILL) * (group[0].end - group[0].start):
            yield group
            group = []
        group.append(node)
    if group:
        yield group


def _bucket(nodes: list[Node], device: torch.device) -> Bucket:
    start = torch.tensor([node.start for node in nodes])[:, None]
    last = torch.tensor([node.end for node in nodes])[:, None] - 1
    places = start + torch.arange(nodes[0].end - nodes[0].start)[None, :]
    real = places <= last
    return Bucket(places=torch.minimum(places, last).to(device), real=real.to(device), flat=places[real].to(device))


def attend(q: Tensor, k: Tensor, v: Tensor, cascade: Cascade, *, scale: float) -> Tensor:
    """Attention of one pack over its tree.

    Args:
        q: ``[1, Hq, T, D]``.
        k: ``[1, Hk, T, D]``, ``Hq`` a multiple of ``Hk``.
        v: As ``k``.

    Returns:
        ``[1, T, Hq, D]``, as transformers' attention functions give it.
    """
    groups = q.shape[1] // k.shape[1]
    # Heads are side by side in a token's memory, so that gathering and scattering tokens moves whole rows.
    rows = [x[0].transpose(0, 1) for x in (q, _repeat(k, groups), _repeat(v, groups))]
    out: Tensor = _Attend.apply(*rows, cascade, scale)
    return out[None]


def _repeat(x: Tensor, groups: int) -> Tensor:
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


class _Attend(torch.autograd.Function):
    """Queries, keys and values ``[T, H, D]`` to outputs ``[T, H, D]``."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cascade: Cascade, scale: float) -> Tensor:
        # Partial results are added up in float32, whatever the model computes in.
        out = torch.empty((*q.shape[:2], v.shape[2]), dtype=torch.float32, device=q.device)
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        kernel = cascade.kernel
        for nodes in cascade.causal:
            part, part_lse = kernel.forward(*(nodes.take(x) for x in (q, k, v)), causal=True, scale=scale)
            nodes.put(out, part)
            nodes.put(lse, part_lse)
        for own, below in cascade.shared:
            part, part_lse = kernel.forward(_heads(q[below]), _heads(k[own]), _heads(v[own]), causal=False, scale=scale)
            _merge(out[below], lse[below], part[0].transpose(0, 1), part_lse[0].transpose(0, 1))
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.cascade, ctx.scale = cascade, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        cascade, scale = ctx.cascade, ctx.scale
        kernel = cascade.kernel
        grad = grad.contiguous()
        dq, dk, dv = (torch.empty(x.shape, dtype=torch.float32, device=x.device) for x in (q, k, v))
        for nodes in cascade.causal:
            parts = kernel.backward(
                nodes.without_filling(nodes.take(grad)),
                *(nodes.take(x) for x in (q, k, v, out)),
                nodes.take(lse[..., None])[..., 0],
                causal=True,
                scale=scale,
            )
            for total, part in zip((dq, dk, dv), parts, strict=True):
                nodes.put(total, part)
        for own, below in cascade.shared:
            parts = kernel.backward(
                _heads(grad[below]),
                _heads(q[below]),
                _heads(k[own]),
                _heads(v[own]),
                _heads(out[below]),
                lse[below].transpose(0, 1)[None],
                causal=False,
                scale=scale,
            )
            for total, part, place in zip((dq, dk, dv), parts, (below, own, own), strict=True):
                total[place] += part[0].transpose(0, 1)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None


def _heads(x: Tensor) -> Tensor:
    """``[T, H, D]`` to ``[1, H, T, D]``."""
    return x.transpose(0, 1)[None]


def _merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Take the outputs over other keys, ``[Q, H, D]`` with log-sum-exps ``[Q, H]``, into ``out`` and ``lse``."""
    both = torch.logaddexp(lse, part_lse)
    out.mul_((lse - both).exp_().unsqueeze(-1)).add_(part * (part_lse - both).exp_().unsqueeze(-1))
    lse.copy_(both)
