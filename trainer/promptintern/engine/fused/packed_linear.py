"""Linear layers whose weights are stored in the layout of oneDNN's kernels, for passes without gradients on a CPU.

A product with few rows, such as a step that adds one token to each answer, is 1.2 to 1.8 times as fast this way as with
the layout of PyTorch, and a product with many rows 1.1 times. LoRA is merged into the packed weights, so it costs
nothing in each pass. The packed weights are a copy: a model whose copy would take more than a quarter of the available
memory is left as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from promptintern.engine import distributed
from promptintern.engine.fused.lora_layers import is_plain, lora_weights_of
from promptintern.engine.fused.patching import patched_forwards
from promptintern.engine.host_memory import available_bytes

Tensor = torch.Tensor
_ROWS = 32
"""The number of rows for which oneDNN chooses the layout. The layout for few rows also suits many rows."""
_MEMORY_SHARE = 0.25


@contextmanager
def packed_linears(model: Any) -> Iterator[int]:
    """Pack the float32 linear layers of ``model`` on a CPU inside the ``with`` block. Yield the number of layers.

    The weights must not change inside the block, and LoRA must stay on or off.

    Args:
        model: A transformers model or its PEFT wrapper.
    """
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    modules = _layers(model) if has_onednn else []
    size = sum(module.weight.numel() * module.weight.element_size() for module in modules)
    available = available_bytes()
    if available is None or size * distributed.world_size() > _MEMORY_SHARE * available:
        modules = []  # the workers of a run may be on one machine, and each sees all that is available
    try:
        forwards = {module: _packed(module) for module in modules}
    except RuntimeError:  # oneDNN has no kernel for this processor
        forwards = {}
    with patched_forwards(forwards):
        yield len(forwards)


def _layers(model: nn.Module) -> list[Any]:
    """Return the layers to replace: plain LoRA layers as a whole, and linear layers that are in none of them."""
    lora: list[Any] = [module for module in model.modules() if is_plain(module) and not module.merged]
    inside = {inner for layer in lora for inner in layer.modules() if inner is not layer}
    linear: list[Any] = [module for module in model.modules() if type(module) is nn.Linear and module not in inside]
    return [module for module in (*lora, *linear) if _fits(module.weight)]


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype is torch.float32


def _packed(layer: Any) -> Callable[..., Tensor]:
    """Return the function that replaces the ``forward`` of ``layer``."""
    weight, bias = layer.weight, layer.bias
    if is_plain(layer) and not layer.disable_adapters:
        weight = lora_weights_of(layer).merged
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
    return partial(_forward, packed, None if bias is None else bias.detach())


def _forward(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y
