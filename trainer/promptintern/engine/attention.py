"""Attention over prefix trees in stock transformers models: a function registered by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from promptintern.engine.cascade import Cascade, attend

NAME = "promptintern_cascade"
_HARMLESS = frozenset(
    {"position_ids", "use_cache", "output_attentions", "output_hidden_states", "output_router_logits", "sliding_window"}
)
"""What models hand on that has no part in attention; a sliding window is the layout's concern."""


def _attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    *,
    cascade: Cascade,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function as transformers calls it; ``cascade`` is what the model was called with.

    Raises:
        NotImplementedError: for attention that is more than a softmax of scaled products: capped scores, sinks, biases.
    """
    unknown = sorted(name for name, value in others.items() if value is not None and name not in _HARMLESS)
    if unknown or dropout:
        raise NotImplementedError(f"attention with {', '.join(unknown) or 'dropout'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(query, key, value, cascade, scale=scale), None


@contextmanager
def cascading(model: Any) -> Iterator[None]:
    """Inside, ``model`` (a transformers model or PEFT's wrapper) takes packs with a cascade, and no others."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = inner.config._attn_implementation
    inner.set_attn_implementation(NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def window_of(model: Any) -> int | None:
    """How many tokens back some layer of ``model`` sees at most; None if all see everything."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config()
    window: int | None = getattr(config, "sliding_window", None)
    return window if getattr(config, "use_sliding_window", True) else None
