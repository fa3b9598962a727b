"""Continuous batching: once an answer ends, the next prompt takes its place (Orca, Yu et al., OSDI 2022).

So no answer waits for the longest one of its batch, and each prompt is computed together with prompts that begin alike.
"""

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from promptintern.answering.agreement import is_rounding, logit_difference
from promptintern.answering.answers import Answer, Decoding, StopStrings, answer_of, end_tokens
from promptintern.answering.passes import compute_prefix_keys, decode, prefill
from promptintern.answering.prefix import MIN_TOKENS, shared_tokens
from promptintern.answering.slots import RecordedKeys, Slots
from promptintern.engine.attention.backends import backend_for
from promptintern.engine.attention.prefix_tree import Prefixes
from promptintern.engine.attention.registration import (
    attention_window,
    max_pack_tokens,
    rope_scaling_limit,
    unsupported_layer_types,
    use_tree_attention,
)
from promptintern.engine.fused.last_layer import last_layer_for_answers
from promptintern.engine.fused.packed_linear import packed_linears
from promptintern.engine.fused.patching import base_of
from promptintern.engine.seeding import mix

_MAX_PREFILL_TOKENS = 4096
"""The maximum number of tokens in a call for new prompts, unless a single prompt has more."""
_faults: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()
"""For each model that was tested: the reason why it cannot answer continuously; empty if it can."""


@dataclass(kw_only=True)
class _Row:
    """A row that is being answered.

    Attributes:
        number: The number of the row's prompt.
        own_tokens: The number of the prompt's tokens after the prefix of all prompts.
        ids: The tokens generated so far.
        draws: The generator of the row's random numbers, if tokens are drawn.
    """

    number: int
    own_tokens: int
    ids: list[int] = field(default_factory=list)
    draws: torch.Generator | None = None

    @property
    def in_slot(self) -> int:
        """The number of tokens in the row's slot: all but the token that was generated last."""
        return self.own_tokens + len(self.ids) - 1


def answer_continuously(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[int],
    *,
    seeds: Sequence[int],
    decoding: Decoding,
    slots: int,
    device: torch.device,
    answered: Callable[[int, Answer], None],
) -> None:
    """Answer the prompts with the given ``numbers``.

    ``continuous_fault`` must be empty for the model and the longest prompt. Draws do not
    depend on other prompts.

    Args:
        model: A transformers model or its PEFT wrapper, in evaluation mode.
        tokenizer: The model's tokenizer.
        prompts: The token ids of each prompt.
        numbers: The numbers of the prompts to answer.
        seeds: The number that seeds the draws of each prompt, together with the seed of ``decoding``.
        decoding: How tokens are chosen and what ends an answer.
        slots: The number of prompts that are answered at a time.
        device: The device of the model.
        answered: A function that is called with the number of each prompt and its answer, once the answer has ended.

    Raises:
        torch.OutOfMemoryError: if the device has too little memory.
    """
    ends, stop = end_tokens(model, tokenizer, decoding.ends), StopStrings(tokenizer, decoding.stop)
    count = min(slots, len(numbers))
    with _patched(model), packed_linears(model):
        shared = shared_tokens(prompts) if len(prompts) > 1 else 0
        prefix = compute_prefix_keys(model, prompts[0][:shared], device=device) if shared >= MIN_TOKENS else None
        start = prefix.tokens if prefix else 0
        room = max(map(len, prompts)) - start + decoding.max_new_tokens
        memory = Slots(count, room)
        waiting = Prefixes(prompts).sort(numbers)  # prompts that begin alike are computed together
        active: list[_Row] = []
        while waiting or active:
            free = count - len(active)
            if waiting and (not active or 4 * free >= count):
                group = _next_group(waiting, prompts, free, start)
                del waiting[: len(group)]
                logits = prefill(
                    model,
                    [prompts[number] for number in group],
                    slots=memory,
                    first=len(active),
                    prefix=prefix,
                    device=device,
                )
                new = [_row(number, len(prompts[number]) - start, decoding, seeds[number]) for number in group]
                active += new
            else:
                tokens, lengths = [row.ids[-1] for row in active], [row.in_slot for row in active]
                logits, new = decode(model, tokens, lengths, slots=memory, prefix=prefix), active
            for row, token in zip(new, _choose(logits, new, decoding.temperature), strict=True):
                row.ids.append(token)
            for index in reversed(range(len(active) - len(new), len(active))):
                row = active[index]
                if row.ids[-1] in ends or len(row.ids) == decoding.max_new_tokens or stop.end(row.ids):
                    answered(row.number, answer_of(tokenizer, row.ids, ends, decoding.stop))
                    last = active.pop()
                    if last is not row:
                        memory.move(len(active), index, last.in_slot)
                        active[index] = last


@contextmanager
def _patched(model: Any) -> Iterator[None]:
    """Make ``model`` compute packs inside the ``with`` block, and its last layer only for tokens that have logits."""
    with use_tree_attention(model), last_layer_for_answers(model):
        yield


def _next_group(waiting: Sequence[int], prompts: Sequence[Sequence[int]], free: int, start: int) -> list[int]:
    """Return the first of the ``waiting`` prompts that fit into one call and into ``free`` slots, at least one."""
    totals = itertools.accumulate(len(prompts[number]) - start for number in waiting[:free])
    return list(waiting[: max(1, sum(total <= _MAX_PREFILL_TOKENS for total in totals))])


def _row(number: int, own_tokens: int, decoding: Decoding, seed: int) -> _Row:
    draws = torch.Generator().manual_seed(mix(*decoding.seed, seed)) if decoding.temperature else None
    return _Row(number=number, own_tokens=own_tokens, draws=draws)


def _choose(logits: torch.Tensor, rows: Sequence[_Row], temperature: float) -> list[int]:
    """Return the next token of each row, given the logits ``[R, vocabulary]``."""
    if not temperature:
        greedy: list[int] = logits.argmax(-1).tolist()
        return greedy
    uniform = torch.stack([torch.rand(1, generator=row.draws, dtype=torch.float64) for row in rows])
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulative, uniform.to(logits.device) * cumulative[:, -1:], right=True)
    chosen: list[int] = drawn[:, 0].clamp_(max=logits.shape[-1] - 1).tolist()
    return chosen


def continuous_fault(model: Any, *, longest: int, device: torch.device) -> str:
    """Return the reason why ``model`` cannot answer continuously; empty if it can.

    A model is tested once: the logits of three random prompts and of the two tokens after each are compared with the
    logits that the unchanged model computes for each whole row.

    Args:
        model: A transformers model or its PEFT wrapper, in evaluation mode.
        longest: The number of tokens in the longest row, with its answer.
        device: The device of the model.
    """
    limits = [attention_window(model), rope_scaling_limit(model)]
    pack_limit = max_pack_tokens(model)
    if any(limit is not None and limit < longest for limit in limits) or (
        pack_limit is not None and pack_limit < max(longest, _MAX_PREFILL_TOKENS)
    ):
        return f"the model does not attend to all of {longest} tokens in the same way"
    inner = base_of(model)
    if inner not in _faults:
        fault = _tested_fault(model, device)
        if fault is None:
            return "the test of its attention failed"
        _faults[inner] = fault
    return _faults[inner]


def _tested_fault(model: Any, device: torch.device) -> str | None:
    """Return the fault, or None if the test failed for a reason that may pass, such as an allocation that failed."""
    name = type(base_of(model)).__name__
    if backend_for(device) is None:
        return f"tree attention has no backend for {device.type}"
    if unsupported := unsupported_layer_types(model):
        return f"{name} has layers without softmax attention ({', '.join(sorted(unsupported))})"
    try:
        return _logit_fault(model, device)
    except torch.OutOfMemoryError:
        raise  # a temporary lack of memory says nothing about the model
    except RuntimeError as error:
        if not isinstance(error, NotImplementedError):
            return None
        return f"{name} does not accept tree attention ({error})".splitlines()[0]
    except Exception as error:  # noqa: BLE001 -- models and kernels raise errors of any type
        return f"{name} does not accept tree attention ({type(error).__name__}: {error})".splitlines()[0]


def _logit_fault(model: Any, device: torch.device) -> str:
    """Return the fault if the logits of continuous batching differ from those of whole rows; empty if they agree."""
    vocabulary = base_of(model).config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    shared, ends = ids[:6], (ids[6:9], ids[9:30], [*ids[9:12], *ids[30:40]])
    prompts, answer = [[*shared, *end] for end in ends], ids[40:42]
    rows = [[*prompt, *answer[:n]] for n in range(len(answer) + 1) for prompt in prompts]

    def next_logits() -> torch.Tensor:
        calls = (model(input_ids=torch.tensor([row], device=device), use_cache=False) for row in rows)
        return torch.cat([call.logits[0, -1:] for call in calls])

    expected = next_logits()
    with _patched(model), packed_linears(model):
        prefix: RecordedKeys = compute_prefix_keys(model, shared, device=device)
        memory, own = Slots(len(prompts), 40), [len(end) for end in ends]
        found = [prefill(model, prompts, slots=memory, first=0, prefix=prefix, device=device)]
        for n, token in enumerate(answer):
            lengths = [tokens + n for tokens in own]
            found.append(decode(model, [token] * len(prompts), lengths, slots=memory, prefix=prefix))
    difference = logit_difference(torch.cat(found), expected)
    if is_rounding(difference, model, expected=expected, recompute=next_logits):
        return ""
    return f"{type(base_of(model)).__name__} computes other logits (difference {difference:.1e})"
