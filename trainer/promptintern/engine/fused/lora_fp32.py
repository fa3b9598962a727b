"""LoRA layers (Hu et al. 2021, arXiv 2106.09685) on a float32 base, with one matrix product for base and LoRA.

Computing ``W + s B A`` takes ``r`` multiplications per weight. Computing ``x W' + s (x A') B'`` instead takes
``r (in + out)`` more multiplications per token than ``x W'``, and two more passes over the layer's output. So from a
few hundred tokens on, it is cheaper to compute the sum ``W + s B A`` than to avoid it. The sum is computed again in
every forward and every backward pass. Thus no second copy of the weights is kept, and the results of a resumed run do
not depend on when the run was interrupted. Only A and B get gradients, through products of rank r.

The projections of an attention module have the same input, which is read once for all of them. The same is true of the
first two layers of an MLP.

In bfloat16, rounding the sum would remove small updates, so ``promptintern.engine.fused.lora_bf16`` computes layers on
a 16-bit base.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from promptintern.engine.fused.last_layer import attention_of, last_layer
from promptintern.engine.fused.lora_bf16 import RoundedLora, lora_bf16, round_again
from promptintern.engine.fused.lora_layers import (
    LoraWeights,
    base_dtype,
    flatten_weights,
    is_plain,
    lora_weights_of,
    rank_slices,
    unflatten_weights,
)
from promptintern.engine.fused.patching import patched_forwards

Tensor = torch.Tensor
_SAME_INPUT: tuple[tuple[str, ...], ...] = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
"""The names of layers that have the same input, first for an attention module, then for an MLP. The names are in the
order in which the layers are called."""
_BLOCK_ROWS = 1024


@contextmanager
def fused_lora(model: Any) -> Iterator[int]:
    """Fuse the plain LoRA layers of the PEFT model ``model`` inside the ``with`` block. Yield the number of layers."""
    forwards: dict[torch.nn.Module, Callable[..., Tensor]] = {}
    all_rounded: list[RoundedLora] = []
    for group in _layer_groups(model):
        compute: Callable[[Tensor], tuple[Tensor, ...]] = partial(_lora_fp32, group)
        if base_dtype(group[0]) is not torch.float32:
            all_rounded.append(RoundedLora(group))
            compute = partial(lora_bf16, layers=group, rounded=all_rounded[-1])
        forwards |= _LayerGroup(group, compute).forwards()
    with patched_forwards(forwards), ExitStack() as hooks:
        if all_rounded:
            hooks.callback(model.register_forward_pre_hook(lambda *_: round_again(all_rounded)).remove)
        yield len(forwards)


class LoraGradients:
    """The gradients of A and B for layers with the same input, summed over blocks of rows.

    For rows ``x`` of the input and gradients ``dy`` of the output, ``dA = s (dy B)' x`` and ``dB = s dy' (x A')``.
    """

    def __init__(self, layers: Sequence[LoraWeights]) -> None:
        self._layers = layers
        self._ranks = rank_slices(layers)
        self._all_a = torch.cat([layer.a for layer in layers])
        self._da = torch.zeros_like(self._all_a)
        self._db = [torch.zeros_like(layer.b) for layer in layers]

    def add(self, x: Tensor, grads: Sequence[Tensor]) -> None:
        """Add the gradients of a block of R rows.

        Args:
            x: The rows of the layers' input, ``[R, in]``.
            grads: The rows of the gradient of each layer's output, ``[R, out]``.
        """
        reduced = x @ self._all_a.t()
        d_reduced = torch.empty_like(reduced)
        for grad, layer, rank, db in zip(grads, self._layers, self._ranks, self._db, strict=True):
            torch.mm(grad, layer.b, out=d_reduced[:, rank])
            db.addmm_(grad.t(), reduced[:, rank], alpha=layer.scale)
        self._da.addmm_(d_reduced.t(), x)

    def gradients(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the gradients of A ``[r, in]`` and B ``[out, r]`` of every layer."""
        for layer, rank, db in zip(self._layers, self._ranks, self._db, strict=True):
            yield self._da[rank].mul_(layer.scale), db


def row_blocks(rows: Tensor) -> Iterator[slice]:
    """Yield the blocks in which to process ``rows``: on a CPU, blocks that fit into its cache; elsewhere, one block."""
    size = _BLOCK_ROWS if rows.device.type == "cpu" else max(1, len(rows))
    return (slice(first, first + size) for first in range(0, len(rows), size))


def _layer_groups(model: Any) -> Iterator[list[Any]]:
    """Yield all plain LoRA layers in groups: layers with the same input together, and every other layer on its own."""
    plain = [module for module in model.modules() if is_plain(module)]
    groups = [
        group
        for group in _same_input_layers(model)
        if all(layer in plain for layer in group) and _are_compatible(group)
    ]
    grouped = {layer for group in groups for layer in group}
    yield from groups
    yield from ([layer] for layer in plain if layer not in grouped)


def _are_compatible(group: Sequence[Any]) -> bool:
    return len({(base_dtype(layer), lora_weights_of(layer).scale) for layer in group}) == 1


def _same_input_layers(model: Any) -> Iterator[list[torch.nn.Module]]:
    """Yield groups of modules that have the same input according to their names.

    In the last layer, the query projection is in no group, because queries are computed from fewer rows than keys and
    values.
    """
    last = attention_of(last_layer(model))
    for module in model.modules():
        children = dict(module.named_children())
        for names in _SAME_INPUT:
            group = names[1:] if module is last else names
            if all(name in children for name in group):
                yield [children[name] for name in group]


class _LayerGroup(threading.local):
    """A group of layers with the same input: the layer called first computes the outputs of all layers in the group.

    Each other layer then only returns its own output. Outputs are kept per thread, and are used only by calls with the
    same input tensor.
    """

    def __init__(self, layers: Sequence[Any], compute: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self._layers = layers
        self._compute = compute
        self._x: Tensor | None = None
        self._pending: dict[Any, Tensor] = {}

    def forwards(self) -> dict[torch.nn.Module, Callable[..., Tensor]]:
        """Return, for every layer of the group, the function that replaces the layer's ``forward``."""
        return {layer: partial(self._forward, layer) for layer in self._layers}

    def _forward(self, layer: Any, x: Tensor) -> Tensor:
        if self._x is not x or layer not in self._pending:
            self._pending = dict(zip(self._layers, self._compute(x), strict=True))
        y = self._pending.pop(layer)
        self._x = x if self._pending else None
        return y


def _lora_fp32(layers: Sequence[Any], x: Tensor) -> tuple[Tensor, ...]:
    scales, flat = flatten_weights([lora_weights_of(layer) for layer in layers])
    biases = [layer.get_base_layer().bias for layer in layers]
    ys: tuple[Tensor, ...] = _LoraFp32.apply(x, biases, scales, *flat)
    return ys


class _LoraFp32(torch.autograd.Function):
    """The autograd function that computes ``x (W + s B A)' + bias`` for several layers with the input ``x``.

    The input is ``[..., in]``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, biases: list[Tensor | None], scales: list[float], *flat: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *flat)
        ctx.scales = scales
        return tuple(
            F.linear(x, layer.merged, bias) for layer, bias in zip(unflatten_weights(flat, scales), biases, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *flat = ctx.saved_tensors
        layers = unflatten_weights(flat, ctx.scales)
        rows, dys = x.reshape(-1, x.shape[-1]), [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        dx = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        merged = [layer.merged for layer in layers] if dx is not None else []
        lora = LoraGradients(layers)
        for block in row_blocks(rows):
            block_dys = [dy[block] for dy in dys]
            if dx is not None:
                torch.mm(block_dys[0], merged[0], out=dx[block])
                for dy, weight in zip(block_dys[1:], merged[1:], strict=True):
                    dx[block].addmm_(dy, weight)
            lora.add(rows[block], block_dys)
        return (
            None if dx is None else dx.view_as(x),
            *(None, None),
            *(each for pair in lora.gradients() for each in (None, *pair)),
        )
