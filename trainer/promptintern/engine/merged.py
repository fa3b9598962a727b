"""LoRA layers with one matrix product for base and adapter, where the base is in float32.

``W + s B A`` costs ``r`` products of the weight's size, while ``x W' + s (x A') B'`` costs ``2 r`` for every token and
two more passes over the layer's output, so from a few hundred tokens on the sum is cheaper to make than to avoid. It is
made anew in every forward and backward pass: no second copy of the weights is kept, and what a resumed run computes
does not depend on when. Gradients reach A and B alone, through products of rank r.

An attention's projections have one input, which is read once for all of them.

In bfloat16 the sum would round small updates away, so there PEFT's own layers stay.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from promptintern.engine.last_layer import attention_of, last_layer
from promptintern.engine.models import forwards

Tensor = torch.Tensor
_SIDE_BY_SIDE = ("q_proj", "k_proj", "v_proj")
"""Of an attention, what is computed from one input, in this order."""
_BLOCK = 1024


class Matrices(NamedTuple):
    """Of one LoRA layer: W ``[out, in]``, A ``[r, in]``, B ``[out, r]``, and the factor of their product."""

    weight: Tensor
    a: Tensor
    b: Tensor
    scale: float

    @property
    def sum(self) -> Tensor:
        """``W + s B A``, ``[out, in]``."""
        return torch.addmm(self.weight, self.b, self.a, alpha=self.scale)


@contextmanager
def merged(model: Any) -> Iterator[int]:
    """Inside, the plain linear LoRA layers of PEFT's ``model`` compute as above; gives their number."""
    instead: dict[torch.nn.Module, Callable[..., Tensor]] = {}
    for group in (*([m] for m in model.modules()), *_groups(model)):
        if all(map(is_plain, group)):
            instead |= _Together(group).forwards()
    with forwards(instead):
        yield len(instead)


def is_plain(layer: Any) -> bool:
    """Whether it is a linear LoRA layer on a frozen base in float32, with nothing else to it."""
    from peft.tuners.lora import Linear

    if type(layer) is not Linear:
        return False
    base = layer.get_base_layer()
    return (
        type(base) is torch.nn.Linear
        and base.weight.dtype is torch.float32
        and not base.weight.requires_grad
        and list(layer.active_adapters) == ["default"]
        and not layer.lora_variant
        and not layer.fan_in_fan_out
        and not layer.lora_bias["default"]
        and isinstance(layer.lora_dropout["default"], torch.nn.Identity)
    )


def matrices_of(layer: Any) -> Matrices:
    """Of a plain layer."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return Matrices(weight=layer.get_base_layer().weight, a=a, b=b, scale=layer.scaling["default"])


class LowRank:
    """Gradients of A and B of layers with one input, added up over blocks of rows: ``dA = s (dy B)' x`` and
    ``dB = s dy' (x A')``."""

    def __init__(self, layers: Sequence[Matrices]) -> None:
        self._layers = layers
        ends = list(accumulate(len(layer.a) for layer in layers))
        self._ranks = [slice(end - len(layer.a), end) for end, layer in zip(ends, layers, strict=True)]
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


def blocks(rows: int) -> Iterator[slice]:
    """So many rows at a time that what is computed of them stays in a processor's cache."""
    return (slice(first, first + _BLOCK) for first in range(0, rows, _BLOCK))


def _groups(model: Any) -> Iterator[list[torch.nn.Module]]:
    """Layers that are called with one and the same input. In the last layer queries have rows of their own."""
    last = attention_of(last_layer(model))
    for module in model.modules():
        named = dict(module.named_children())
        names = _SIDE_BY_SIDE[1:] if module is last else _SIDE_BY_SIDE
        if all(name in named for name in names):
            yield [named[name] for name in names]


class _Together:
    """Layers of which the first computes for all; the others take theirs, if they are called with the same input."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = layers
        self._x: Tensor | None = None
        self._waiting: dict[Any, Tensor] = {}

    def forwards(self) -> dict[torch.nn.Module, Callable[..., Tensor]]:
        """What each layer computes instead."""
        return {layer: partial(self._forward, layer) for layer in self._layers}

    def _forward(self, layer: Any, x: Tensor) -> Tensor:
        if self._x is not x or layer not in self._waiting:
            self._waiting = dict(zip(self._layers, _outputs(self._layers, x), strict=True))
        y = self._waiting.pop(layer)
        self._x = x if self._waiting else None
        return y


def _outputs(layers: Sequence[Any], x: Tensor) -> tuple[Tensor, ...]:
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
        for block in blocks(len(rows)):
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


def flattened(layers: Sequence[Matrices]) -> tuple[list[float], list[Tensor]]:
    """Factors of layers, and their W, A and B one after the other, as an autograd function takes them."""
    return [layer.scale for layer in layers], [each for layer in layers for each in layer[:3]]


def unflattened(flat: Sequence[Tensor], scales: Sequence[float]) -> list[Matrices]:
    """The layers again."""
    threes = zip(flat[::3], flat[1::3], flat[2::3], scales, strict=True)
    return [Matrices(weight=weight, a=a, b=b, scale=scale) for weight, a, b, scale in threes]
