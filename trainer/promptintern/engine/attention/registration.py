"""The registration of tree attention as an attention function that unmodified transformers models can use by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from promptintern.engine.attention.tree_attention import PackAttention
from promptintern.engine.fused.last_layer import attention_of, last_layer
from promptintern.engine.fused.patching import base_of

NAME = "promptintern_tree_attention"
_HARMLESS = frozenset(
    {"position_ids", "use_cache", "output_attentions", "output_hidden_states", "output_router_logits"}
)
"""The arguments that models pass to attention functions and that have no effect on attention."""
_SOFTMAX = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    tree_attention: PackAttention,
    last: torch.nn.Module | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of one layer, with the signature that transformers expects.

    Args:
        tree_attention: The attention of the pack, which the caller of the model passes as a keyword argument.
        last: The attention module of the model's last layer; None if it is unknown.

    Raises:
        NotImplementedError: if the model's attention is more than a softmax of scaled products (capped scores, sinks,
            biases), or does not cover all earlier tokens (masks, windows).
    """
    unsupported = sorted(name for name, value in options.items() if value is not None and name not in _HARMLESS)
    if dropout:
        unsupported.append("dropout")
    if attention_mask is not None:
        unsupported.append("an attention mask")
    if sliding_window is not None and sliding_window < tree_attention.longest_row:
        unsupported.append("a sliding window")
    if unsupported:
        raise NotImplementedError(f"attention with {', '.join(unsupported)}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return tree_attention.attend(module, query, key, value, is_last=module is last, scale=scale), None


@contextmanager
def use_tree_attention(model: Any) -> Iterator[None]:
    """Make ``model`` use tree attention, and no other attention, inside the ``with`` block.

    Args:
        model: A transformers model or its PEFT wrapper.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, partial(_attention, last=attention_of(last_layer(model))))
    inner = base_of(model)
    before = inner.config._attn_implementation
    inner.set_attn_implementation(NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)
        # The registered function must not keep a reference to the model.
        AttentionInterface.register(NAME, partial(_attention, last=None))


def attention_window(model: Any) -> int | None:
    """Return the largest row length, in tokens, at which every layer attends to the whole row, or None for no limit."""
    config = _config(model)
    limits = [getattr(config, "attention_chunk_size", None)]
    if getattr(config, "use_sliding_window", True):
        limits.append(getattr(config, "sliding_window", None))
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo's name for a sliding window
        limits.append(config.window_size)
    return min((limit for limit in limits if limit is not None), default=None)


def unsupported_layer_types(model: Any) -> set[str]:
    """Return the layer types in the model's config that do not use softmax attention, such as recurrent layers."""
    return set(getattr(_config(model), "layer_types", None) or ()) - _SOFTMAX


def rope_scaling_limit(model: Any) -> int | None:
    """Return the row length, in tokens, above which the model scales positions, or None if it never scales them.

    Above this length, the scale depends on the longest of the rows that the model computes together.
    """
    rope = getattr(_config(model), "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    scaled = [kind for kind in kinds if kind.get("rope_type") in ("dynamic", "longrope")]
    limits = [kind.get("original_max_position_embeddings") or _config(model).max_position_embeddings for kind in scaled]
    return min(limits, default=None)


def max_pack_tokens(model: Any) -> int | None:
    """Return the largest number of tokens in a pack at which a token's index in the pack does not change attention.

    Return None if there is no limit. Llama 4 has one: in layers without positional encoding, it scales queries by their
    index in the pack, in steps of ``floor_scale`` tokens.
    """
    config = _config(model)
    return config.floor_scale if getattr(config, "attn_temperature_tuning", False) else None


def _config(model: Any) -> Any:
    return base_of(model).config.get_text_config()
