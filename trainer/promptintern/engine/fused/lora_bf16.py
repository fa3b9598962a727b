"""LoRA layers (Hu et al. 2021, arXiv 2106.09685) on a 16-bit base, with the LoRA product in 16 bits too.

PEFT keeps A and B in float32, as the optimizer needs them, and also computes ``(x A') B'`` in float32: without tensor
cores, and with one copy of the input and several copies of the output. Here A and B are rounded to the base's dtype
only for the products, as mixed precision rounds any weight (Micikevicius et al. 2018, arXiv 1710.03740), and their
gradients are summed in float32. The LoRA product is added in place to the output of the base. Layers with the same
input, such as the projections of an attention module, share one product ``x A'``.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from promptintern.engine.fused.lora_layers import base_dtype, lora_weights_of, rank_slices

Tensor = torch.Tensor


class RoundedLora:
    """The matrices A and B of layers with the same input and the same scale, rounded to the dtype of the base.

    Attributes:
        a: The A matrices of all layers, concatenated, ``[sum of r, in]``.
        b: The B matrix of each layer, ``[out, r]``.
        ranks: The range of rows of each layer in ``a``.
        scale: The scale of the product ``B A``.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        weights = [lora_weights_of(layer) for layer in layers]
        self.ranks = rank_slices(weights)
        self.scale = weights[0].scale
        self.a = torch.cat([each.a.detach() for each in weights]).to(base_dtype(layers[0]))
        self.b = [each.b.detach().to(base_dtype(layers[0])) for each in weights]
        self._layers = layers

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return every rounded matrix together with the float32 parameter from which it is rounded."""
        weights = [lora_weights_of(layer) for layer in self._layers]
        return [
            *((self.a[rank], each.a) for rank, each in zip(self.ranks, weights, strict=True)),
            *((b, each.b) for b, each in zip(self.b, weights, strict=True)),
        ]


@torch.no_grad()
def round_again(all_rounded: Sequence[RoundedLora]) -> None:
    """Round the parameters of all layers in ``all_rounded`` again, because the parameters may have changed."""
    pairs = [pair for rounded in all_rounded for pair in rounded.pairs()]
    torch._foreach_copy_([to for to, _ in pairs], [parameter for _, parameter in pairs])


def lora_bf16(x: Tensor, layers: Sequence[Any], rounded: RoundedLora) -> tuple[Tensor, ...]:
    """Return the outputs ``[..., out]`` of the plain LoRA layers ``layers`` for their input ``x`` ``[..., in]``."""
    bases = [layer.get_base_layer() for layer in layers]
    parameters = [matrix for layer in layers for matrix in lora_weights_of(layer)[1:3]]
    ys: tuple[Tensor, ...] = _LoraBf16.apply(
        x, rounded, [b.weight for b in bases], [b.bias for b in bases], *parameters
    )
    return ys


class _LoraBf16(torch.autograd.Function):
    """The autograd function that computes ``x W' + bias + s (x A') B'`` for several layers.

    The float32 parameters A and B are arguments only so that they receive gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rounded: RoundedLora,
        weights: list[Tensor],
        biases: list[Tensor | None],
        *_parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])
        reduced = rows @ rounded.a.t()
        ys = []
        for weight, bias, b, rank in zip(weights, biases, rounded.b, rounded.ranks, strict=True):
            y = F.linear(x, weight, bias)  # not a view, because the model may modify it in place
            y.view(-1, y.shape[-1]).addmm_(reduced[:, rank], b.t(), alpha=rounded.scale)
            ys.append(y)
        ctx.save_for_backward(rows, reduced)
        ctx.rounded, ctx.weights = rounded, weights
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        rows, reduced = ctx.saved_tensors
        rounded, weights = ctx.rounded, ctx.weights
        dys = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        d_reduced = torch.empty_like(reduced)
        for dy, b, rank in zip(dys, rounded.b, rounded.ranks, strict=True):
            torch.mm(dy, b, out=d_reduced[:, rank])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dys[0] @ weights[0]
            for dy, weight in zip(dys[1:], weights[1:], strict=True):
                dx.addmm_(dy, weight)
            dx = dx.addmm_(d_reduced, rounded.a, alpha=rounded.scale).view(*grads[0].shape[:-1], -1)
        da = _matmul_float32(d_reduced.t(), rows)
        dbs = [_matmul_float32(dy.t(), reduced[:, rank]) for dy, rank in zip(dys, rounded.ranks, strict=True)]
        torch._foreach_mul_([da, *dbs], rounded.scale)
        pairs = zip((da[rank] for rank in rounded.ranks), dbs, strict=True)
        return (dx, None, None, None, *(each for pair in pairs for each in pair))


def _matmul_float32(a: Tensor, b: Tensor) -> Tensor:
    """Return the product ``a b`` of two 16-bit matrices, summed and returned in float32."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
