"""Tree attention on a CPU, with one kernel call for a long node, and one for several short nodes of similar length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from promptintern.engine.attention.prefix_tree import PrefixTree
from promptintern.engine.attention.tree_attention import Segment, group_heads

Tensor = torch.Tensor
_KEYS_PER_CALL = 384
"""The maximum number of keys in a call of the backward kernel. In a call with at least 768 queries, the kernel
processes 256 queries and up to 512 keys at once, in two float32 buffers that are then larger than a core's cache. With
at most 384 keys, the kernel is 10% faster."""
_MAX_PADDING = 0.15
"""The maximum padding of a node, as a share of the length of the longest node in the same kernel call."""


class CpuKernel:
    """PyTorch's flash-attention kernel for CPUs.

    Shapes: queries ``[B, H, Q, D]``, keys and values ``[B, H, K, D]``, log-sum-exps ``[B, H, Q]`` float32.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        """Return the attention output ``[B, H, Q, D]`` and the log-sum-exps."""
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
        return out, lse

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of queries, keys and values, in their types.

        The output ``out`` and the log-sum-exps ``lse`` may be combined over several segments. Gradients are computed
        in float32, because the kernel takes several times as long in 16-bit types.
        """
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad.float(), q.float(), k.float(), v.float(), out.float(), lse, 0.0, causal, scale=scale
        )
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


_KERNEL = CpuKernel()


@dataclass(frozen=True, kw_only=True)
class _PaddedTokens:
    """The tokens of N nodes of similar length, padded to L tokens per node.

    Attributes:
        indices: The indices ``[N, L]`` of the tokens. A shorter node is padded with its last token, to which no earlier
            token of the node attends.
        is_real: The mask ``[N, L]`` bool, False for padding.
        real_cells: The row and column numbers in ``indices``, ``[R]`` each, of the tokens that are not padding.
        real_indices: The indices ``[R]`` of the tokens that are not padding, in order.
    """

    indices: Tensor
    is_real: Tensor
    real_cells: tuple[Tensor, Tensor]
    real_indices: Tensor

    def pad(self, x: Tensor) -> Tensor:
        """Gather the padded tokens from ``x`` ``[T, H, G, D]``, and return them as ``[N, H G, L, D]``."""
        return x[self.indices].flatten(2, 3).transpose(1, 2)

    def unpad(self, x: Tensor, groups: int) -> Tensor:
        """Return ``x`` ``[N, H G, L, ...]`` without padding, as ``[R, H, G, ...]``."""
        return group_heads(x.transpose(1, 2)[self.real_cells], groups)

    def zero_padding(self, x: Tensor) -> Tensor:
        """Return ``x`` ``[N, H G, L, D]`` with zeros in place of padding."""
        return x * self.is_real[:, None, :, None]


@dataclass(frozen=True, kw_only=True)
class PaddedSegment:
    """A segment in which nodes of similar length attend causally to their own tokens, in one padded call."""

    query_tokens: _PaddedTokens
    key_tokens: _PaddedTokens

    @property
    def queries(self) -> Tensor:
        return self.query_tokens.real_indices

    @property
    def keys(self) -> Tensor:
        return self.key_tokens.real_indices

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        groups = q.shape[2]
        keys, values = (self.key_tokens.pad(_expand_groups(x, groups)) for x in (k, v))
        out, lse = _KERNEL.forward(self.query_tokens.pad(q), keys, values, causal=True, scale=scale)
        return self.query_tokens.unpad(out, groups), self.query_tokens.unpad(lse, groups)

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        groups, pad = q.shape[2], self.query_tokens.pad
        keys, values = (self.key_tokens.pad(_expand_groups(x, groups)) for x in (k, v))
        dq, dk, dv = _KERNEL.backward(
            self.query_tokens.zero_padding(pad(grad)),
            pad(q),
            keys,
            values,
            pad(out),
            pad(lse[..., None])[..., 0],
            causal=True,
            scale=scale,
        )
        dk, dv = (self.key_tokens.unpad(x, groups).sum(2, dtype=torch.float32) for x in (dk, dv))
        return self.query_tokens.unpad(dq, groups), dk, dv


@dataclass(frozen=True, kw_only=True)
class RangeSegment:
    """A segment in which a contiguous range of queries attends to a contiguous range of keys; neither is copied.

    The G query heads that share a head of keys are passed to the kernel as G rows of a batch. The keys of these rows
    are views of the same memory.
    """

    queries: slice
    keys: slice
    causal: bool

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        groups = q.shape[2]
        keys, values = (_expand_groups(x[self.keys], groups).transpose(0, 2) for x in (k, v))
        out, lse = _KERNEL.forward(q[self.queries].transpose(0, 2), keys, values, causal=self.causal, scale=scale)
        return out.transpose(0, 2), lse.transpose(0, 2)

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        groups = q.shape[2]
        grad, q, out, lse = (x[self.queries].transpose(0, 2) for x in (grad, q, out, lse))
        dq: Tensor | None = None
        dks, dvs = [], []
        for keys, values in zip(self._key_blocks(k, groups), self._key_blocks(v, groups), strict=True):
            block_dq, dk, dv = _KERNEL.backward(grad, q, keys, values, out, lse, causal=self.causal, scale=scale)
            dq = block_dq if dq is None else dq.float().add_(block_dq)
            dks.append(dk.transpose(0, 2).sum(2, dtype=torch.float32))
            dvs.append(dv.transpose(0, 2).sum(2, dtype=torch.float32))
        assert dq is not None
        return dq.transpose(0, 2), torch.cat(dks), torch.cat(dvs)

    def _key_blocks(self, x: Tensor, groups: int) -> list[Tensor]:
        """Split the segment's keys or values ``x`` into one block for each call of the backward kernel.

        The keys and values of a causal segment are not split.
        """
        whole = _expand_groups(x[self.keys], groups).transpose(0, 2)
        return [whole] if self.causal else list(whole.tensor_split(-(-whole.shape[2] // _KEYS_PER_CALL), dim=2))


class _OwnTokens(NamedTuple):
    """The tokens of one node that have queries and attend causally to each other.

    Attributes:
        query_start: The index of the first of these tokens among the queries.
        key_start: The index of the first of these tokens in the pack.
        tokens: The number of these tokens.
    """

    query_start: int
    key_start: int
    tokens: int


class CpuBackend:
    """The tree-attention backend for CPUs."""

    min_call_tokens = 48
    """The number of tokens from which a separate kernel call for a node costs less than copying the node's tokens into
    a padded call and back."""
    min_node_savings = 16
    min_prefix_savings: int | None = 256
    """The minimum number of tokens that a shared prefix must save each worker. The extra pass that computes the prefix
    takes about 20 ms in addition to the time of its tokens. In 20 ms, four layers of width 256 compute 130 tokens."""

    def segments(
        self, tree: PrefixTree, queries_before: Sequence[int], device: torch.device
    ) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
        """Return the causal and the dense segments for ``tree``; see ``AttentionBackend.segments``."""
        own, dense = [], []
        for node in tree.nodes:
            first, last = queries_before[node.start], queries_before[node.end]
            cut = node.end - (last - first)
            if first < last:
                own.append(_OwnTokens(query_start=first, key_start=cut, tokens=last - first))
                if node.start < cut:
                    dense.append((slice(first, last), slice(node.start, cut)))
            if node.end < node.subtree_end:
                dense.append((slice(last, queries_before[node.subtree_end]), slice(node.start, node.end)))
        short = [each for each in own if each.tokens < self.min_call_tokens]
        causal: tuple[Segment, ...] = (
            *(
                RangeSegment(
                    queries=slice(each.query_start, each.query_start + each.tokens),
                    keys=slice(each.key_start, each.key_start + each.tokens),
                    causal=True,
                )
                for each in own
                if each.tokens >= self.min_call_tokens
            ),
            *map(_padded_segment, _group_by_length(short)),
        )
        return causal, tuple(RangeSegment(queries=queries, keys=keys, causal=False) for queries, keys in dense)

    def prefix_segment(self, queries: int, tokens: int, device: torch.device) -> Segment:
        """Return the segment in which all queries attend to the shared prefix; see ``AttentionBackend``."""
        return RangeSegment(queries=slice(0, queries), keys=slice(0, tokens), causal=False)


def _group_by_length(nodes: list[_OwnTokens]) -> Iterator[list[_OwnTokens]]:
    group: list[_OwnTokens] = []
    for node in sorted(nodes, key=lambda n: -n.tokens):
        if group and node.tokens < (1 - _MAX_PADDING) * group[0].tokens:
            yield group
            group = []
        group.append(node)
    if group:
        yield group


def _padded_segment(nodes: list[_OwnTokens]) -> PaddedSegment:
    query_start, key_start, tokens = torch.tensor(nodes).T[:, :, None]
    offset = torch.arange(nodes[0].tokens)[None, :]
    is_real = offset < tokens
    offset = torch.minimum(offset, tokens - 1)
    rows, columns = is_real.nonzero(as_tuple=True)

    def padded_from(start: Tensor) -> _PaddedTokens:
        indices = start + offset
        return _PaddedTokens(
            indices=indices, is_real=is_real, real_cells=(rows, columns), real_indices=indices[is_real]
        )

    return PaddedSegment(query_tokens=padded_from(query_start), key_tokens=padded_from(key_start))


def _expand_groups(x: Tensor, groups: int) -> Tensor:
    """Return ``x`` ``[T, H, D]`` as ``[T, H, G, D]``, without a copy."""
    return x.unsqueeze(2).expand(-1, -1, groups, -1)
