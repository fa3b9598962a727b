"""Temporary changes to a transformers model or to its PEFT wrapper."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


def base_of(model: Any) -> Any:
    """Return the transformers model in the PEFT wrapper ``model``, or ``model`` itself if it is not wrapped."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def patched_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Replace the ``forward`` of each module in ``forwards`` with the given function inside the ``with`` block."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


@contextmanager
def train_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set all modules to training or evaluation mode inside the ``with`` block, and restore their modes afterwards."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
