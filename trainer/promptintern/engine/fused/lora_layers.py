"""The matrices of PEFT's plain linear LoRA layers."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch

Tensor = torch.Tensor


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


def is_plain(layer: Any) -> bool:
    """Whether it is a linear LoRA layer on a frozen base, with nothing else to it."""
    from peft.tuners.lora import Linear

    if type(layer) is not Linear:
        return False
    base = layer.get_base_layer()
    return (
        type(base) is torch.nn.Linear
        and base.weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and not base.weight.requires_grad
        and list(layer.active_adapters) == ["default"]
        and not layer.lora_variant
        and not layer.fan_in_fan_out
        and not layer.lora_bias["default"]
        and isinstance(layer.lora_dropout["default"], torch.nn.Identity)
    )


def dtype_of(layer: Any) -> torch.dtype:
    """Of a plain layer's base."""
    dtype: torch.dtype = layer.get_base_layer().weight.dtype
    return dtype


def matrices_of(layer: Any) -> Matrices:
    """Of a plain layer."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return Matrices(weight=layer.get_base_layer().weight, a=a, b=b, scale=layer.scaling["default"])


def ranks_of(layers: Sequence[Matrices]) -> list[slice]:
    """Where each layer's rows are in all A one below the other."""
    ends = accumulate((len(layer.a) for layer in layers), initial=0)
    return [slice(start, end) for start, end in pairwise(ends)]


def flattened(layers: Sequence[Matrices]) -> tuple[list[float], list[Tensor]]:
    """Factors of layers, and their W, A and B one after the other, as an autograd function takes them."""
    return [layer.scale for layer in layers], [each for layer in layers for each in layer[:3]]


def unflattened(flat: Sequence[Tensor], scales: Sequence[float]) -> list[Matrices]:
    """The layers again."""
    threes = zip(flat[::3], flat[1::3], flat[2::3], scales, strict=True)
    return [Matrices(weight=weight, a=a, b=b, scale=scale) for weight, a, b, scale in threes]
