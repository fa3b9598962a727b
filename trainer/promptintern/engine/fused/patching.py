"""Temporary changes to a transformers model, or to PEFT's wrapper of one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


def base_of(model: Any) -> Any:
    """The transformers model in PEFT's wrapper ``model``, or ``model`` itself if it is not wrapped."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def patched_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside this block, each of these modules has the given ``forward`` in place of its own."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


@contextmanager
def train_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Inside this block, all modules are in training mode, or none is; afterwards each is in its former mode."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
