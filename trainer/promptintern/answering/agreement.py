"""Whether two computations of the same logits agree, though they sum numbers in different orders."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from promptintern.engine.fused.patching import base_of

Tensor = torch.Tensor
_TOLERANCE = 5e-4
"""A difference that is always taken for rounding. In float32, rounding makes smaller ones."""
_MOST_TIMES_NOISE = 2.0
"""How many times the noise of its rounding errors a model's logits may differ if they are summed in another order."""


def logit_difference(found: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference between two tensors of logits of the same shape.

    Its unit is the standard deviation of ``expected``.
    """
    return float((found.float() - expected.float()).square().mean().sqrt() / expected.float().std())


def is_rounding(difference: float, model: Any, *, expected: Tensor, recompute: Callable[[], Tensor]) -> bool:
    """Return whether a different order of summation in ``model`` can explain a ``logit_difference``.

    How much rounding errors amount to depends on the model, above all in 16-bit types. So the logits are computed
    once more with a random rounding error in the output of each layer, unless the difference is tiny.

    Args:
        difference: The difference between other logits and ``expected``.
        model: The model that computed ``expected``, or its PEFT wrapper.
        expected: The logits.
        recompute: A function with which the unchanged model computes ``expected`` again.
    """
    if difference <= _TOLERANCE:
        return True
    with _rounding_errors(model):
        noise = logit_difference(recompute(), expected)
    return difference <= _MOST_TIMES_NOISE * noise


@contextmanager
def _rounding_errors(model: Any) -> Iterator[None]:
    """Inside the ``with`` block, change each number that a layer returns by up to half a unit in its last place."""
    draws = torch.Generator().manual_seed(0)

    def change(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(_module, _inputs, output[0]), *output[1:])
        error = (torch.rand(output.shape, generator=draws) - 0.5) * torch.finfo(output.dtype).eps
        return (output.float() * (1 + error.to(output.device))).to(output.dtype)

    with ExitStack() as hooks:
        for layer in _layers(base_of(model)):
            hooks.callback(layer.register_forward_hook(change).remove)
        yield


def _layers(model: Any) -> list[nn.Module]:
    """Return the layers of a transformers model, whatever their list is called."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count)
    return list(next(lists, []))
