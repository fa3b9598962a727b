"""What is done to a transformers model, or to PEFT's wrapper of one, for a while."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


def base_of(model: Any) -> Any:
    """The transformers model, which may be in PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def forwards(instead: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside, these modules compute what they are given here."""
    for module, forward in instead.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in instead:
            del module.forward


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Inside, all modules train, or none; every one is then as it was."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
