"""The weights of PEFT's plain linear LoRA layers."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch

Tensor = torch.Tensor


class LoraWeights(NamedTuple):
    """The weights of one LoRA layer.

    Attributes:
        weight: The matrix W of the base, ``[out, in]``.
        a: The matrix A, ``[r, in]``.
        b: The matrix B, ``[out, r]``.
        scale: The scale ``s`` of the product ``B A``.
    """

    weight: Tensor
    a: Tensor
    b: Tensor
    scale: float

    @property
    def merged(self) -> Tensor:
        """The merged matrix ``W + s B A``, ``[out, in]``."""
        return torch.addmm(self.weight, self.b, self.a, alpha=self.scale)


def is_plain(layer: Any) -> bool:
    """Return whether ``layer`` is a linear LoRA layer on a frozen base and uses none of PEFT's LoRA variants."""
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


def base_dtype(layer: Any) -> torch.dtype:
    """Return the dtype of the base of the plain LoRA layer ``layer``."""
    dtype: torch.dtype = layer.get_base_layer().weight.dtype
    return dtype


def lora_weights_of(layer: Any) -> LoraWeights:
    """Return the weights of the plain LoRA layer ``layer``."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return LoraWeights(weight=layer.get_base_layer().weight, a=a, b=b, scale=layer.scaling["default"])


def rank_slices(layers: Sequence[LoraWeights]) -> list[slice]:
    """Return the range of rows of each layer in the concatenation of all A matrices."""
    ends = accumulate((len(layer.a) for layer in layers), initial=0)
    return [slice(start, end) for start, end in pairwise(ends)]


def flatten_weights(layers: Sequence[LoraWeights]) -> tuple[list[float], list[Tensor]]:
    """Return the scales of ``layers``, and one list of all matrices W, A and B, for an autograd function."""
    return [layer.scale for layer in layers], [matrix for layer in layers for matrix in layer[:3]]


def unflatten_weights(flat: Sequence[Tensor], scales: Sequence[float]) -> list[LoraWeights]:
    """Return the weights of the layers that ``flatten_weights`` flattened."""
    by_layer = zip(flat[::3], flat[1::3], flat[2::3], scales, strict=True)
    return [LoraWeights(weight=weight, a=a, b=b, scale=scale) for weight, a, b, scale in by_layer]
