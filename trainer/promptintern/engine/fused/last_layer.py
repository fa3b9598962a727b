"""The last layer, for the tokens that predict an answer only.

Nobody attends to what the last layer gives, so of its output only the rows that the logits are taken from matter: there
its queries, its output projection and its MLP are computed for those rows alone, and are zero elsewhere. Keys and
values are computed for all. (That few of its tokens attend is the cascade's part.)
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from promptintern.engine.fused.patching import base_of

Tensor = torch.Tensor
_PARTS = ("q_proj", "o_proj", "dense", "mlp")
"""Of a layer, modules that take and give one row for every token and see no other token, as architectures name them."""


class Rows(threading.local):
    """Which tokens of the pack that a thread has in hand the last layer is wanted for."""

    def __init__(self) -> None:
        self.wanted: Tensor | None = None
        self.count = 0


@contextmanager
def answers_only(model: Any) -> Iterator[None]:
    """Inside, the last layer of ``model`` computes the places in its call's ``logits_to_keep`` alone."""
    rows = Rows()
    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(_note(rows), with_kwargs=True).remove)
        for part in _parts(last_layer(model)):
            hooks.callback(part.register_forward_pre_hook(_take(rows)).remove)
            hooks.callback(part.register_forward_hook(_put_back(rows)).remove)
        yield


def last_layer(model: nn.Module) -> nn.Module | None:
    """Of a transformers model or PEFT's wrapper; None where its layers are no plain list."""
    layers = getattr(base_of(model).get_decoder(), "layers", None)
    return layers[-1] if isinstance(layers, nn.ModuleList) else None


def attention_of(layer: nn.Module | None) -> nn.Module | None:
    """The layer's attention, by the names that architectures give it."""
    named = {} if layer is None else dict(layer.named_children())
    return named.get("self_attn", named.get("attention"))


def _parts(layer: nn.Module | None) -> list[nn.Module]:
    if layer is None:
        return []
    named = dict(layer.named_children())
    attention = attention_of(layer)
    inner = {} if attention is None else dict(attention.named_children())
    return [part for name in _PARTS if (part := named.get(name, inner.get(name))) is not None]


def _note(rows: Rows) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        rows.wanted = kwargs["logits_to_keep"]

    return hook


def _take(rows: Rows) -> Callable[..., tuple[Tensor]]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        assert rows.wanted is not None
        (x,) = args
        rows.count = x.shape[1]
        return (x[:, rows.wanted],)

    return hook


def _put_back(rows: Rows) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, _args: Any, y: Tensor) -> Tensor:
        assert rows.wanted is not None
        whole = y.new_zeros((y.shape[0], rows.count, y.shape[2]))
        return whole.index_copy(1, rows.wanted, y)

    return hook
