"""The two calls of the model that continuous batching consists of: one for new prompts, one for one token of each row.

New prompts are computed as one pack with tree attention, so tokens that prompts have in common are computed once. The
prefix of all prompts is computed once for all packs, and is read in every call without a copy for each row (Hydragen,
Juravsky et al. 2024, arXiv 2402.05099).
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from promptintern.answering.slots import RecordedKeys, Slots
from promptintern.engine.attention.prefix_tree import PrefixTree
from promptintern.engine.device import to_device
from promptintern.engine.packing.forward import pack_tensors
from promptintern.prompt.encode import Encoded

Tensor = torch.Tensor
_ANY_TOKEN = memoryview(array("i", [0]))
"""An answer of one token, for prompts without answers: the last token of an answer is not an input of the model."""


@dataclass(frozen=True, kw_only=True)
class DecodingAttention:
    """The attention of one token of each of B rows to the row's slot and to the prefix of all rows.

    Attributes:
        slots: The slots, of which the first B hold the rows. The new keys and values are added to them.
        lengths: The number of tokens in each row's slot before this call, ``[B]`` int64.
        longest: The largest of ``lengths``.
        hidden: The numbers ``[B, 1, 1, longest + 1]`` that are added to the scores of the tokens in a slot: ``-inf``
            for tokens that the row does not have, else 0.
        prefix: The keys and values of the prefix of all rows, or None if there is none.
        longest_row: The number of tokens in the longest row, with the prefix and the new token.
    """

    slots: Slots
    lengths: Tensor
    longest: int
    hidden: Tensor
    prefix: RecordedKeys | None
    longest_row: int

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, *, is_last: bool, scale: float) -> Tensor:
        """Return the attention of one layer; see ``PackAttention.attend``. The T tokens are those of B rows."""
        rows, heads, groups = q.shape[2], k.shape[1], q.shape[1] // k.shape[1]
        slots = self.slots.of_layer(module)
        every = torch.arange(rows, device=q.device)
        slots.keys[every, :, self.lengths] = k[0].transpose(0, 1)
        slots.values[every, :, self.lengths] = v[0].transpose(0, 1)
        keys, values = (x[:rows, :, : self.longest + 1] for x in (slots.keys, slots.values))
        queries = q[0].transpose(0, 1).view(rows, heads, groups, -1)
        scores = (queries @ keys.transpose(2, 3)).float().mul_(scale).add_(self.hidden)
        if self.prefix is None:
            out = scores.softmax(-1).to(v.dtype) @ values
        else:
            shared = self.prefix.of_layer(module)
            by_head = queries.transpose(0, 1).flatten(1, 2)  # the queries of all rows, [H, B G, D]
            shared_scores = (by_head @ shared.keys.permute(1, 2, 0)).float().mul_(scale)
            shared_scores = shared_scores.view(heads, rows, groups, -1).transpose(0, 1)
            weights = torch.cat([shared_scores, scores], -1).softmax(-1).to(v.dtype)
            of_shared, of_own = torch.split(weights, [self.prefix.tokens, self.longest + 1], -1)
            out = of_own @ values
            shared_out = of_shared.transpose(0, 1).flatten(1, 2) @ shared.values.transpose(0, 1)
            out = out + shared_out.view(heads, rows, groups, -1).transpose(0, 1)
        return out.reshape(1, rows, heads * groups, -1)


def compute_prefix_keys(model: Any, ids: Sequence[int], *, device: torch.device) -> RecordedKeys:
    """Return the keys and values that ``model`` computes for the tokens ``ids``, with which all prompts begin."""
    prefix = RecordedKeys(len(ids))
    pack = pack_tensors([_encoded(ids)], device=device, tree_attention=True)
    assert pack.attention
    _logits(model, pack.input_ids, pack.position_ids, pack.predicts, replace(pack.attention, recorder=prefix))
    return prefix


def prefill(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    slots: Slots,
    first: int,
    prefix: RecordedKeys | None,
    device: torch.device,
) -> Tensor:
    """Compute ``prompts`` (token ids), put their keys and values into the slots from ``first`` on, and return logits.

    Args:
        model: A model that uses tree attention.
        prompts: The prompts, in an order in which common prefixes are adjacent.
        slots: The slots.
        first: The number of the first prompt's slot.
        prefix: The keys and values of the tokens with which all prompts begin, or None if there is none.
        device: The device of the model.

    Returns:
        The logits of the token after each prompt, float ``[prompts, vocabulary]``.
    """
    pack = pack_tensors(
        [_encoded(ids) for ids in prompts],
        device=device,
        tree_attention=True,
        share_prefixes=True,
        shared_prefix=prefix,
    )
    assert pack.attention
    computed = RecordedKeys(pack.tree.tokens)
    attention = replace(pack.attention, recorder=computed)
    logits = _logits(model, pack.input_ids, pack.position_ids, pack.predicts, attention)
    paths = list(token_paths(pack.tree))
    indices = np.zeros((len(paths), max(map(len, paths))), np.int64)
    for row, path in zip(indices, paths, strict=True):
        row[: len(path)] = path
    slots.fill(first, computed, to_device(indices, device))
    return logits


def decode(
    model: Any, tokens: Sequence[int], lengths: Sequence[int], *, slots: Slots, prefix: RecordedKeys | None
) -> Tensor:
    """Compute one token of each row, add its keys and values to the row's slot, and return logits.

    Args:
        model: A model that uses tree attention.
        tokens: The last token of each row.
        lengths: The number of tokens in each row's slot, without the prefix and the last token.
        slots: The slots, of which the first ones hold the rows.
        prefix: The keys and values of the tokens with which all rows begin, or None if there is none.

    Returns:
        The logits of the next token of each row, float ``[rows, vocabulary]``.
    """
    device = next(model.parameters()).device
    start, longest = prefix.tokens if prefix else 0, max(lengths)
    counts = to_device(list(lengths), device)
    is_hidden = torch.arange(longest + 1, device=device) > counts[:, None]
    hidden = torch.zeros(is_hidden.shape, device=device).masked_fill_(is_hidden, -torch.inf)[:, None, None]
    attention = DecodingAttention(
        slots=slots,
        lengths=counts,
        longest=longest,
        hidden=hidden,
        prefix=prefix,
        longest_row=start + longest + 1,
    )
    return _logits(
        model,
        to_device([list(tokens)], device),
        (start + counts)[None],
        torch.arange(len(tokens), device=device),
        attention,
    )


def token_paths(tree: PrefixTree) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Yield, for each row of ``tree``, the indices of the row's tokens among the tokens of the pack, in order."""
    above: list[tuple[int, np.ndarray[Any, np.dtype[np.int64]]]] = []  # the ends of the subtrees, and the tokens
    for node in tree.nodes:
        while above and above[-1][0] <= node.start:
            above.pop()
        own = np.arange(node.start, node.end)
        if node.subtree_end == node.end:
            yield np.concatenate([*(tokens for _, tokens in above), own])
        else:
            above.append((node.subtree_end, own))


def _encoded(ids: Sequence[int]) -> Encoded:
    return Encoded(prompt_ids=memoryview(array("i", ids)), answer_ids=_ANY_TOKEN)


def _logits(model: Any, ids: Tensor, positions: Tensor, keep: Tensor, attention: Any) -> Tensor:
    """Return the logits ``[L, vocabulary]`` of the tokens ``keep`` ``[L]``."""
    output = model(
        input_ids=ids, position_ids=positions, logits_to_keep=keep, use_cache=False, tree_attention=attention
    )
    logits: Tensor = output.logits[0]
    return logits
