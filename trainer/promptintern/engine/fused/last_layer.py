"""The last layer, computed only for the tokens that predict an answer token.

No token attends to the output of the last layer, so only the output rows from which logits are computed matter. The
queries, the output projection and the MLP of the last layer are computed for these rows only, and are zero in all other
rows. Keys and values are computed for all tokens. (``TreeAttention.last_layer`` limits the attention itself.)
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from promptintern.engine.fused.patching import base_of

Tensor = torch.Tensor
_PER_TOKEN_MODULES = ("q_proj", "o_proj", "dense", "mlp")
"""The names, in various architectures, of modules within a layer that map each token separately, from one input row to
one output row."""


class _KeptTokens(threading.local):
    """The tokens for which the last layer is computed, in the pack that the current thread is computing.

    Attributes:
        indices: The indices ``[L]`` of these tokens; None before the first pack.
        count: The number of all tokens in the pack.
    """

    def __init__(self) -> None:
        self.indices: Tensor | None = None
        self.count = 0


@contextmanager
def last_layer_for_answers(model: Any) -> Iterator[None]:
    """Inside the ``with`` block, compute the last layer of ``model`` only for the tokens in ``logits_to_keep``.

    ``logits_to_keep`` is an argument of every call of the model.
    """
    kept = _KeptTokens()
    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(_capture(kept), with_kwargs=True).remove)
        for module in _per_token_modules(last_layer(model)):
            hooks.callback(module.register_forward_pre_hook(_select(kept)).remove)
            hooks.callback(module.register_forward_hook(_scatter(kept)).remove)
        yield


def last_layer(model: nn.Module) -> nn.Module | None:
    """Return the last layer of a transformers model or its PEFT wrapper, or None if the layers are not a plain list."""
    layers = getattr(base_of(model).get_decoder(), "layers", None)
    return layers[-1] if isinstance(layers, nn.ModuleList) else None


def attention_of(layer: nn.Module | None) -> nn.Module | None:
    """Return the attention module of ``layer``, or None if ``layer`` has none under any of the usual names."""
    children = {} if layer is None else dict(layer.named_children())
    return children.get("self_attn", children.get("attention"))


def _per_token_modules(layer: nn.Module | None) -> list[nn.Module]:
    if layer is None:
        return []
    children = dict(layer.named_children())
    attention = attention_of(layer)
    inner = {} if attention is None else dict(attention.named_children())
    return [module for name in _PER_TOKEN_MODULES if (module := children.get(name, inner.get(name))) is not None]


def _capture(kept: _KeptTokens) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        kept.indices = kwargs["logits_to_keep"]

    return hook


def _select(kept: _KeptTokens) -> Callable[..., tuple[Tensor]]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        assert kept.indices is not None
        (x,) = args
        kept.count = x.shape[1]
        return (x[:, kept.indices],)

    return hook


def _scatter(kept: _KeptTokens) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, _args: Any, y: Tensor) -> Tensor:
        assert kept.indices is not None
        whole = y.new_zeros((y.shape[0], kept.count, y.shape[2]))
        return whole.index_copy(1, kept.indices, y)

    return hook
