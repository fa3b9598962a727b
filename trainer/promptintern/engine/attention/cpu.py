"""Attention over a prefix tree on a CPU: one call for every long piece, and one for short ones of about one length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from promptintern.engine.attention.prefix_tree import PrefixTree
from promptintern.engine.attention.tree_attention import Part, grouped

Tensor = torch.Tensor
_KEYS = 384
"""The backward kernel takes 256 queries (of 768 and more) and up to 512 keys at a time, in two buffers of float32 that
are larger than a core's cache then: with 384 keys and less it is a tenth quicker."""
_MAX_FILL = 0.15
"""Of a bucket's longest piece, what a shorter one may lack."""


class CpuKernel:
    """The flash attention of PyTorch for CPUs.

    Shapes: queries ``[B, H, Q, D]``, keys and values ``[B, H, K, D]``, log-sum-exps ``[B, H, Q]`` float32.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        """Output ``[B, H, Q, D]`` and log-sum-exp."""
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
        return out, lse

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values; ``out`` and ``lse`` may be merged ones."""
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal, scale=scale
        )
        return dq, dk, dv


_KERNEL = CpuKernel()


@dataclass(frozen=True, kw_only=True)
class _Bucket:
    """Where pieces of about one length are.

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
        return grouped(part.transpose(1, 2)[self.where], groups)

    def without_filling(self, x: Tensor) -> Tensor:
        """``[N, H G, L, D]`` with zeros for what was filled up."""
        return x * self.real[:, None, :, None]


@dataclass(frozen=True, kw_only=True)
class Short:
    """Pieces of about one length, each causally among its own tokens, in one call."""

    asking: _Bucket
    asked: _Bucket

    @property
    def queries(self) -> Tensor:
        return self.asking.flat

    @property
    def keys(self) -> Tensor:
        return self.asked.flat

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        groups = q.shape[2]
        keys, values = (self.asked.take(_repeated(x, groups)) for x in (k, v))
        out, lse = _KERNEL.forward(self.asking.take(q), keys, values, causal=True, scale=scale)
        return self.asking.give(out, groups), self.asking.give(lse, groups)

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        groups, take = q.shape[2], self.asking.take
        keys, values = (self.asked.take(_repeated(x, groups)) for x in (k, v))
        dq, dk, dv = _KERNEL.backward(
            self.asking.without_filling(take(grad)),
            take(q),
            keys,
            values,
            take(out),
            take(lse[..., None])[..., 0],
            causal=True,
            scale=scale,
        )
        dk, dv = (self.asked.give(x, groups).sum(2, dtype=torch.float32) for x in (dk, dv))
        return self.asking.give(dq, groups), dk, dv


@dataclass(frozen=True, kw_only=True)
class Span:
    """A range of queries to a range of keys, in a call without copies.

    The G that have the same keys stand side by side like rows of a batch, whose keys are one and the same memory.
    """

    queries: slice
    keys: slice
    causal: bool

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        groups = q.shape[2]
        keys, values = (_repeated(x[self.keys], groups).transpose(0, 2) for x in (k, v))
        out, lse = _KERNEL.forward(q[self.queries].transpose(0, 2), keys, values, causal=self.causal, scale=scale)
        return out.transpose(0, 2), lse.transpose(0, 2)

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        groups = q.shape[2]
        grad, q, out, lse = (x[self.queries].transpose(0, 2) for x in (grad, q, out, lse))
        dq: Tensor | None = None
        dks, dvs = [], []
        for keys, values in zip(self._blocks(k, groups), self._blocks(v, groups), strict=True):
            more, dk, dv = _KERNEL.backward(grad, q, keys, values, out, lse, causal=self.causal, scale=scale)
            dq = more if dq is None else dq.float().add_(more)
            dks.append(dk.transpose(0, 2).sum(2, dtype=torch.float32))
            dvs.append(dv.transpose(0, 2).sum(2, dtype=torch.float32))
        assert dq is not None
        return dq.transpose(0, 2), torch.cat(dks), torch.cat(dvs)

    def _blocks(self, x: Tensor, groups: int) -> list[Tensor]:
        """Of ``self.keys``, those that the backward kernel takes at a time: all if it is causal."""
        some = _repeated(x[self.keys], groups).transpose(0, 2)
        return [some] if self.causal else list(some.tensor_split(-(-some.shape[2] // _KEYS), dim=2))


class _Piece(NamedTuple):
    """Tokens of one node that are queries, and keys to each other."""

    query: int
    key: int
    tokens: int


class Pieces:
    """The calls of a CPU."""

    long = 48
    """Tokens from which a call of its own costs less than copying a node's rows to those of others and back."""
    least_saved = 16
    trunk_saves: int | None = 256
    """A pass costs some 20 ms besides its tokens, which is what 130 of them take in four layers of 256."""

    def parts(
        self, tree: PrefixTree, before: Sequence[int], device: torch.device
    ) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """As ``promptintern.engine.attention.tree_attention.Planner`` says."""
        pieces, dense = [], []
        for node in tree.nodes:
            first, last = before[node.start], before[node.end]
            cut = node.end - (last - first)
            if first < last:
                pieces.append(_Piece(query=first, key=cut, tokens=last - first))
                if node.start < cut:
                    dense.append((slice(first, last), slice(node.start, cut)))
            if node.end < node.stop:
                dense.append((slice(last, before[node.stop]), slice(node.start, node.end)))
        short = [piece for piece in pieces if piece.tokens < self.long]
        causal: tuple[Part, ...] = (
            *(
                Span(queries=slice(p.query, p.query + p.tokens), keys=slice(p.key, p.key + p.tokens), causal=True)
                for p in pieces
                if p.tokens >= self.long
            ),
            *map(_short, _by_length(short)),
        )
        return causal, tuple(Span(queries=queries, keys=keys, causal=False) for queries, keys in dense)

    def to_trunk(self, queries: int, tokens: int, device: torch.device) -> Part:
        """As ``promptintern.engine.attention.tree_attention.Planner`` says."""
        return Span(queries=slice(0, queries), keys=slice(0, tokens), causal=False)


def _by_length(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    group: list[_Piece] = []
    for piece in sorted(pieces, key=lambda p: -p.tokens):
        if group and piece.tokens < (1 - _MAX_FILL) * group[0].tokens:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _short(pieces: list[_Piece]) -> Short:
    query, key, tokens = torch.tensor(pieces).T[:, :, None]
    within = torch.arange(pieces[0].tokens)[None, :]
    real = within < tokens
    within = torch.minimum(within, tokens - 1)
    rows, columns = real.nonzero(as_tuple=True)

    def at(start: Tensor) -> _Bucket:
        places = start + within
        return _Bucket(places=places, real=real, where=(rows, columns), flat=places[real])

    return Short(asking=at(query), asked=at(key))


def _repeated(x: Tensor, groups: int) -> Tensor:
    """``[T, H, D]`` to ``[T, H, G, D]``, without a copy."""
    return x.unsqueeze(2).expand(-1, -1, groups, -1)
