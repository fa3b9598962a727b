"""Prefix caching: the keys and values of the prompts' shared prefix are computed once and reused in every batch."""

import inspect
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch

from promptintern.engine.attention.registration import (
    attention_window,
    max_pack_tokens,
    rope_scaling_limit,
    unsupported_layer_types,
)
from promptintern.engine.fused.patching import base_of

MIN_TOKENS = 16
"""The length, in tokens, of the shortest prefix that is worth caching."""


@dataclass(frozen=True, kw_only=True)
class CachedPrefix:
    """The shared prefix of prompts, with the keys and values of its tokens."""

    ids: tuple[int, ...]
    key_values: Any
    """The key-value cache of transformers after the tokens ``ids``, for one row."""

    def cache_for(self, rows: int) -> Any:
        """Return a copy of the cache for ``rows`` rows, which generation may extend."""
        copy = deepcopy(self.key_values)
        copy.batch_repeat_interleave(rows)
        return copy


def shared_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Return the length of the longest prefix that all prompts share and that leaves each prompt at least one token."""
    if not prompts:
        return 0
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return min(same, min(map(len, prompts)) - 1)


def compute_prefix(model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> CachedPrefix | None:
    """Compute the shared prefix of ``prompts`` (token ids) with the current weights of ``model``.

    Return None if the prefix is shorter than ``MIN_TOKENS``, if there are fewer than two prompts, if the device has too
    little memory for the prefix, or if the model cannot continue the prefix. The rows of a batch are padded after the
    prefix. This padding would change the result of a model that does not accept positions of tokens, that attends only
    to a window of tokens, or that scales positions by the length of the input.
    """
    count = shared_tokens(prompts)
    if len(prompts) < 2 or count < MIN_TOKENS or not _supports_prefix(model):
        return None
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    inner = base_of(model)
    ids = tuple(prompts[0][:count])
    cache = DynamicCache(config=inner.config)
    try:
        inner.base_model(  # without the model's head, because the logits of these tokens are not needed
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.arange(count, device=device)[None],  # the same positions as in generation
            past_key_values=cache,
            use_cache=True,
        )
    except torch.OutOfMemoryError:
        return None
    if any(type(layer) is not DynamicLayer or layer.get_seq_length() != count for layer in cache.layers):
        return None
    return CachedPrefix(ids=ids, key_values=cache)


def _supports_prefix(model: Any) -> bool:
    limits = (attention_window(model), rope_scaling_limit(model), max_pack_tokens(model))
    parameters = inspect.signature(base_of(model).forward).parameters.keys()
    takes_cache = {"position_ids", "past_key_values"} <= parameters
    return takes_cache and not unsupported_layer_types(model) and all(limit is None for limit in limits)
