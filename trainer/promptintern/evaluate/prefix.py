"""What all prompts begin with, computed once: every batch continues its keys and values."""

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

LEAST_TOKENS = 16
"""Of a beginning that is worth keeping."""


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """A beginning of prompts, with its keys and values."""

    ids: tuple[int, ...]
    filled: Any
    """transformers' cache after these tokens, for one row."""

    def cache(self, rows: int) -> Any:
        """A copy for ``rows`` rows, to be filled on."""
        copy = deepcopy(self.filled)
        copy.batch_repeat_interleave(rows)
        return copy


def shared_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all ``prompts`` begin with and that leave at least one of each."""
    if not prompts:
        return 0
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return min(same, min(map(len, prompts)) - 1)


def compute_prefix(model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> Prefix | None:
    """The beginning that ``prompts`` (token ids) share, computed by ``model`` as it is now.

    None if it is short, if the device has no memory for it, or if the model cannot go on from it. Rows of a batch are
    filled up behind the beginning: a model that is not told its tokens' positions, or that sees only some tokens
    before, would notice; so would one whose positions are scaled by the length of what it is given.
    """
    count = shared_tokens(prompts)
    if len(prompts) < 2 or count < LEAST_TOKENS or not _takes_prefix(model):
        return None
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    inner = base_of(model)
    ids = tuple(prompts[0][:count])
    filled = DynamicCache(config=inner.config)
    try:
        inner.base_model(  # without its head: of these tokens nobody wants the logits
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.arange(count, device=device)[None],  # as generation counts them
            past_key_values=filled,
            use_cache=True,
        )
    except torch.OutOfMemoryError:
        return None
    if any(type(layer) is not DynamicLayer or layer.get_seq_length() != count for layer in filled.layers):
        return None
    return Prefix(ids=ids, filled=filled)


def _takes_prefix(model: Any) -> bool:
    limits = (attention_window(model), rope_scaling_limit(model), max_pack_tokens(model))
    taken = inspect.signature(base_of(model).forward).parameters.keys()
    told = {"position_ids", "past_key_values"} <= taken
    return told and not unsupported_layer_types(model) and all(limit is None for limit in limits)
