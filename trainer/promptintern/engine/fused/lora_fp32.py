"""LoRA layers with one matrix product for base and adapter, where the base is in float32.

``W + s B A`` costs ``r`` products of the weight's size, while ``x W' + s (x A') B'`` costs ``2 r`` for every token and
two more passes over the layer's output, so from a few hundred tokens on the sum is cheaper to make than to avoid. It is
made anew in every forward and backward pass: no second copy of the weights is kept, and what a resumed run computes
does not depend on when. Gradients reach A and B alone, through products of rank r.

An attention's projections have one input, which is read once for all of them, and so have an MLP's first two.

In bfloat16 the sum would round small updates away; what is computed there says promptintern.engine.fused.lora_bf16.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from promptintern.engine.fused.last_layer import attention_of, last_layer
from promptintern.engine.fused.lora_bf16 import Rounded, round_again, thin
from promptintern.engine.fused.lora_layers import (
    Matrices,
    dtype_of,
    flattened,
    is_plain,
    matrices_of,
    ranks_of,
    unflattened,
)
from promptintern.engine.fused.patching import forwards

Tensor = torch.Tensor
_SIDE_BY_SIDE: tuple[tuple[str, ...], ...] = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
"""Of an attention and of an MLP, what is computed from one input, in this order."""
_BLOCK = 1024


@contextmanager
def merged(model: Any) -> Iterator[int]:
    """Inside, the plain linear LoRA layers of PEFT's ``model`` compute as above; gives their number."""
    instead: dict[torch.nn.Module, Callable[..., Tensor]] = {}
    all_rounded: list[Rounded] = []
    for group in _groups(model):
        compute: Callable[[Tensor], tuple[Tensor, ...]] = partial(_sums, group)
        if dtype_of(group[0]) is not torch.float32:
            all_rounded.append(Rounded(group))
            compute = partial(thin, layers=group, rounded=all_rounded[-1])
        instead |= _Together(group, compute).forwards()
    with forwards(instead), ExitStack() as hooks:
        if all_rounded:
            hooks.callback(model.register_forward_pre_hook(lambda *_: round_again(all_rounded)).remove)
        yield len(instead)


class LowRank:
    """Gradients of A and B of layers with one input, added up over blocks of rows: ``dA = s (dy B)' x`` and
    ``dB = s dy' (x A')``."""

    def __init__(self, layers: Sequence[Matrices]) -> None:
        self._layers = layers
        self._ranks = ranks_of(layers)
        self._all_a = torch.cat([layer.a for layer in layers])
        self._da = torch.zeros_like(self._all_a)
        self._db = [torch.zeros_like(layer.b) for layer in layers]

    def add(self, x: Tensor, grads: Sequence[Tensor]) -> None:
        """Rows of the layers' input, ``[R, in]``, and of their outputs' gradients, ``[R, out]``."""
        reduced = x @ self._all_a.t()
        spread = torch.empty_like(reduced)
        for grad, layer, rank, db in zip(grads, self._layers, self._ranks, self._db, strict=True):
            torch.mm(grad, layer.b, out=spread[:, rank])
            db.addmm_(grad.t(), reduced[:, rank], alpha=layer.scale)
        self._da.addmm_(spread.t(), x)

    def gradients(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Of A and B, for every layer."""
        for layer, rank, db in zip(self._layers, self._ranks, self._db, strict=True):
            yield self._da[rank].mul_(layer.scale), db


def blocks(rows: Tensor) -> Iterator[slice]:
    """On a CPU so many of ``rows`` at a time that what is computed of them stays in its cache, elsewhere all."""
    size = _BLOCK if rows.device.type == "cpu" else max(1, len(rows))
    return (slice(first, first + size) for first in range(0, len(rows), size))


def _groups(model: Any) -> Iterator[list[Any]]:
    """All plain layers: those that are called with one and the same input together, and each of the others alone."""
    plain = [module for module in model.modules() if is_plain(module)]
    found = [group for group in _side_by_side(model) if all(layer in plain for layer in group) and _are_alike(group)]
    together = {layer for group in found for layer in group}
    yield from found
    yield from ([layer] for layer in plain if layer not in together)


def _are_alike(group: Sequence[Any]) -> bool:
    return len({(dtype_of(layer), matrices_of(layer).scale) for layer in group}) == 1


def _side_by_side(model: Any) -> Iterator[list[torch.nn.Module]]:
    """Modules by name. In the last layer queries have rows of their own."""
    last = attention_of(last_layer(model))
    for module in model.modules():
        named = dict(module.named_children())
        for names in _SIDE_BY_SIDE:
            alike = names[1:] if module is last else names
            if all(name in named for name in alike):
                yield [named[name] for name in alike]


class _Together(threading.local):
    """Layers of which the first computes for all; the others take theirs, if they are called with the same input.

    What waits, waits for the thread that it was computed in.
    """

    def __init__(self, layers: Sequence[Any], compute: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self._layers = layers
        self._compute = compute
        self._x: Tensor | None = None
        self._waiting: dict[Any, Tensor] = {}

    def forwards(self) -> dict[torch.nn.Module, Callable[..., Tensor]]:
        """What each layer computes instead."""
        return {layer: partial(self._forward, layer) for layer in self._layers}

    def _forward(self, layer: Any, x: Tensor) -> Tensor:
        if self._x is not x or layer not in self._waiting:
            self._waiting = dict(zip(self._layers, self._compute(x), strict=True))
        y = self._waiting.pop(layer)
        self._x = x if self._waiting else None
        return y


def _sums(layers: Sequence[Any], x: Tensor) -> tuple[Tensor, ...]:
    scales, flat = flattened([matrices_of(layer) for layer in layers])
    biases = [layer.get_base_layer().bias for layer in layers]
    ys: tuple[Tensor, ...] = _Merged.apply(x, biases, scales, *flat)
    return ys


class _Merged(torch.autograd.Function):
    """``x (W + s B A)' + bias`` of several layers; ``x`` ``[..., in]``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, biases: list[Tensor | None], scales: list[float], *flat: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *flat)
        ctx.scales = scales
        return tuple(
            F.linear(x, layer.sum, bias) for layer, bias in zip(unflattened(flat, scales), biases, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *flat = ctx.saved_tensors
        layers = unflattened(flat, ctx.scales)
        rows, given = x.reshape(-1, x.shape[-1]), [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        dx = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        sums = [layer.sum for layer in layers] if dx is not None else []
        low = LowRank(layers)
        for block in blocks(rows):
            some = [each[block] for each in given]
            if dx is not None:
                torch.mm(some[0], sums[0], out=dx[block])
                for grad, weight in zip(some[1:], sums[1:], strict=True):
                    dx[block].addmm_(grad, weight)
            low.add(rows[block], some)
        return (
            None if dx is None else dx.view_as(x),
            *(None, None),
            *(each for pair in low.gradients() for each in (None, *pair)),
        )
