"""LoRA layers in 16 bits: the base's product, and two thin ones of the same kind that are added to it in place.

PEFT keeps A and B in float32, as an optimizer needs them, and computes ``(x A') B'`` in float32, too: outside of
tensor cores, with a copy of the input and several of the output. Here A and B are rounded to the base's numbers for the
products alone, as mixed precision rounds any weight (Micikevicius et al. 2018), and their gradients are sums in
float32. Layers with one input, such as an attention's projections, have one thin product by all their A.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from promptintern.engine.fused.lora_layers import dtype_of, matrices_of, ranks_of

Tensor = torch.Tensor


class Rounded:
    """A and B of layers with one input and one factor, as their base computes.

    Attributes:
        a: ``[sum of r, in]``, of all layers.
        b: ``[out, r]`` each.
        ranks: Where each layer's are in ``a``.
        scale: The factor.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        found = [matrices_of(layer) for layer in layers]
        self.ranks = ranks_of(found)
        self.scale = found[0].scale
        self.a = torch.cat([each.a.detach() for each in found]).to(dtype_of(layers[0]))
        self.b = [each.b.detach().to(dtype_of(layers[0])) for each in found]
        self._layers = layers

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Of every matrix the one here, and the parameter that it is to be rounded from."""
        found = [matrices_of(layer) for layer in self._layers]
        return [
            *((self.a[rank], each.a) for rank, each in zip(self.ranks, found, strict=True)),
            *((b, each.b) for b, each in zip(self.b, found, strict=True)),
        ]


@torch.no_grad()
def round_again(all_rounded: Sequence[Rounded]) -> None:
    """After the parameters have changed."""
    pairs = [pair for rounded in all_rounded for pair in rounded.pairs()]
    torch._foreach_copy_([to for to, _ in pairs], [parameter for _, parameter in pairs])


def thin(x: Tensor, layers: Sequence[Any], rounded: Rounded) -> tuple[Tensor, ...]:
    """What plain layers give for ``x`` ``[..., in]``."""
    bases = [layer.get_base_layer() for layer in layers]
    parameters = [each for layer in layers for each in matrices_of(layer)[1:3]]
    ys: tuple[Tensor, ...] = _Thin.apply(x, rounded, [b.weight for b in bases], [b.bias for b in bases], *parameters)
    return ys


class _Thin(torch.autograd.Function):
    """``x W' + bias + s (x A') B'`` of several layers; the parameters A and B are there for their gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rounded: Rounded, weights: list[Tensor], biases: list[Tensor | None], *_parameters: Tensor
    ) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])
        reduced = rows @ rounded.a.t()
        ys = []
        for weight, bias, b, rank in zip(weights, biases, rounded.b, rounded.ranks, strict=True):
            y = F.linear(x, weight, bias)  # no view: the model may go on in place
            y.view(-1, y.shape[-1]).addmm_(reduced[:, rank], b.t(), alpha=rounded.scale)
            ys.append(y)
        ctx.save_for_backward(rows, reduced)
        ctx.rounded, ctx.weights = rounded, weights
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        rows, reduced = ctx.saved_tensors
        rounded, weights = ctx.rounded, ctx.weights
        given = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        spread = torch.empty_like(reduced)
        for dy, b, rank in zip(given, rounded.b, rounded.ranks, strict=True):
            torch.mm(dy, b, out=spread[:, rank])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = given[0] @ weights[0]
            for dy, weight in zip(given[1:], weights[1:], strict=True):
                dx.addmm_(dy, weight)
            dx = dx.addmm_(spread, rounded.a, alpha=rounded.scale).view(*grads[0].shape[:-1], -1)
        da = _exact(spread.t(), rows)
        dbs = [_exact(dy.t(), reduced[:, rank]) for dy, rank in zip(given, rounded.ranks, strict=True)]
        torch._foreach_mul_([da, *dbs], rounded.scale)
        pairs = zip((da[rank] for rank in rounded.ranks), dbs, strict=True)
        return (dx, None, None, None, *(each for pair in pairs for each in pair))


def _exact(a: Tensor, b: Tensor) -> Tensor:
    """``a b`` of numbers in 16 bits, as float32."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
