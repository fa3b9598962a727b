"""LoRA layers with one matrix product for base and adapter, where the base is in float32.

``W + s B A`` costs ``r`` products of the weight's size, while ``x W' + s (x A') B'`` costs ``2 r`` for every token and
two more passes over the layer's output, so from a few hundred tokens on the sum is cheaper to make than to avoid. It is
made anew in every forward and backward pass: no second copy of the weights is kept, and what a resumed run computes
does not depend on when. Gradients reach A and B alone, through products of rank r.

In bfloat16 the sum would round small updates away, so there PEFT's own layers stay.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from promptintern.engine.models import forwards

Tensor = torch.Tensor


@contextmanager
def merged(model: Any) -> Iterator[int]:
    """Inside, the plain linear LoRA layers of PEFT's ``model`` compute as above; gives their number."""
    from peft.tuners.lora import Linear

    layers = {m: partial(_forward, m) for m in model.modules() if type(m) is Linear and _is_plain(m)}
    with forwards(layers):
        yield len(layers)


def _is_plain(layer: Any) -> bool:
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


def _forward(layer: Any, x: Tensor) -> Tensor:
    base = layer.get_base_layer()
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    y: Tensor = _Merged.apply(x, base.weight, base.bias, a, b, layer.scaling["default"])
    return y


class _Merged(torch.autograd.Function):
    """``x (W + s B A)' + bias``; ``x`` ``[..., in]``, W ``[out, in]``, A ``[r, in]``, B ``[out, r]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return F.linear(x, torch.addmm(weight, b, a, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, weight, a, b = ctx.saved_tensors
        dx = grad @ torch.addmm(weight, b, a, alpha=ctx.scale) if ctx.needs_input_grad[0] else None
        rows, given = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        da = (given @ b).t() @ rows
        db = given.t() @ (rows @ a.t())
        return dx, None, None, da.mul_(ctx.scale), db.mul_(ctx.scale), None
