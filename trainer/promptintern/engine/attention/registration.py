"""Attention over prefix trees in stock transformers models: a function registered by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from promptintern.engine.attention.tree_attention import Cascade, attend
from promptintern.engine.fused.last_layer import attention_of, last_layer
from promptintern.engine.fused.patching import base_of

NAME = "promptintern_cascade"
_HARMLESS = frozenset(
    {"position_ids", "use_cache", "output_attentions", "output_hidden_states", "output_router_logits"}
)
"""What models hand on that has no part in attention."""
_SOFTMAX = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cascade: Cascade,
    last: torch.nn.Module | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function as transformers calls it; ``cascade`` is what the model was called with.

    ``last`` is the attention of the last layer.

    Raises:
        NotImplementedError: for attention that is more than a softmax of scaled products (capped scores, sinks,
            biases), or less than one over all tokens before (masks, windows).
    """
    unknown = sorted(name for name, value in others.items() if value is not None and name not in _HARMLESS)
    if dropout:
        unknown.append("dropout")
    if attention_mask is not None:
        unknown.append("a mask of its own")
    if sliding_window is not None and sliding_window < cascade.longest:
        unknown.append("a sliding window")
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    calls = cascade.last if module is last else cascade.every
    if cascade.becomes:
        cascade.becomes.keep(module, (key, value))
    above = cascade.trunk.of(module) if cascade.trunk else None
    return attend(query, key, value, calls, above, scale=scale), None


@contextmanager
def cascading(model: Any) -> Iterator[None]:
    """Inside, ``model`` (a transformers model or PEFT's wrapper) takes packs with a cascade, and no others."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, partial(_attention, last=attention_of(last_layer(model))))
    inner = base_of(model)
    before = inner.config._attn_implementation
    inner.set_attn_implementation(NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)
        AttentionInterface.register(NAME, partial(_attention, last=None))  # it holds on to no model


def sight_of(model: Any) -> int | None:
    """Tokens that a row may have for every layer to see all of them; None if there is no limit."""
    config = _config(model)
    limits = [getattr(config, "attention_chunk_size", None)]
    if getattr(config, "use_sliding_window", True):
        limits.append(getattr(config, "sliding_window", None))
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo's word for it
        limits.append(config.window_size)
    return min((limit for limit in limits if limit is not None), default=None)


def other_layers(model: Any) -> set[str]:
    """Kinds of layers that do not attend by a softmax (recurrent or linear ones, say), as the model's config says."""
    return set(getattr(_config(model), "layer_types", None) or ()) - _SOFTMAX


def rows_apart(model: Any) -> int | None:
    """Tokens of a row beyond which positions are scaled by the longest row of a call; None if they never are."""
    rope = getattr(_config(model), "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    scaled = [kind for kind in kinds if kind.get("rope_type") in ("dynamic", "longrope")]
    limits = [kind.get("original_max_position_embeddings") or _config(model).max_position_embeddings for kind in scaled]
    return min(limits, default=None)


def longest_pack(model: Any) -> int | None:
    """Tokens of a pack beyond which a token's place in it changes its attention; None if it never does.

    Llama 4 scales the queries of layers without positions by it, in steps of ``floor_scale`` tokens.
    """
    config = _config(model)
    return config.floor_scale if getattr(config, "attn_temperature_tuning", False) else None


def _config(model: Any) -> Any:
    return base_of(model).config.get_text_config()
