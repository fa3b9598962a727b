"""Generation of answers by transformers, in batches whose rows begin together, or one by one."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from promptintern.answering.agreement import is_rounding, logit_difference
from promptintern.answering.answers import Answer, Decoding, StopStrings, answer_of, end_tokens
from promptintern.answering.prefix import CachedPrefix, compute_prefix
from promptintern.engine.fused.patching import base_of
from promptintern.engine.seeding import mix
from promptintern.errors import RunFailed
from promptintern.models.load import evaluation_mode


def answer_in_batches(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    numbers: Sequence[int] | None = None,
    decoding: Decoding,
    device: torch.device,
    share_prefix: bool = True,
    kept: CachedPrefix | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> list[Answer]:
    """Return answers to ``prompts`` (token ids), in the order of the prompts.

    Prompts of similar length share a batch, with padding after their shared prefix. A batch that does not fit into the
    device's memory is halved.

    Args:
        numbers: The numbers of the prompts, which seed their draws; by default, they are numbered from 0. The first
            prompt of a batch seeds the draws of the whole batch.
        share_prefix: Whether to compute the shared prefix of all prompts only once, if the model allows this. If False,
            every prompt is computed completely, as on a server without prefix caching.
        kept: A prefix of all prompts that was computed before, as on a server that keeps it between requests.
        progress: A function that is called after each batch with the number of prompts answered so far.

    Raises:
        RunFailed: if the device has too little memory for a single prompt.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    numbers = numbers or range(len(prompts))
    answers: list[Answer | None] = [None] * len(prompts)
    with evaluation_mode(model):
        prefix = kept or (usable_prefix(model, tokenizer, prompts, device) if share_prefix else None)
        for start in range(0, len(order), decoding.batch_size):
            batch = order[start : start + decoding.batch_size]
            batch_prompts, batch_answers = [prompts[i] for i in batch], None
            seeds = [numbers[i] for i in batch]
            try:
                batch_answers = _generate_with_halving(model, tokenizer, batch_prompts, decoding, device, prefix, seeds)
            except RunFailed:
                if prefix is None:
                    raise
            if batch_answers is None:  # outside the handler and without the prefix, more memory is free
                prefix = None
                batch_answers = _generate_with_halving(model, tokenizer, batch_prompts, decoding, device, prefix, seeds)
            for row, answer in zip(batch, batch_answers, strict=True):
                answers[row] = answer
            progress(min(start + decoding.batch_size, len(order)))
    return [answer for answer in answers if answer is not None]


def time_queries(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    decoding: Decoding,
    device: torch.device,
    kept: CachedPrefix | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> list[float]:
    """Answer each prompt alone, after one untimed warm-up answer, and return the seconds that each answer took.

    Args:
        kept: A prefix of all prompts that was computed before, and that no answer computes again.
        progress: A function that is called after each timed answer with the number of timed answers so far.
    """
    seconds = []
    with evaluation_mode(model):
        for number, prompt in enumerate([*prompts[:1], *prompts]):
            began = time.perf_counter()
            _generate_batch(model, tokenizer, [prompt], decoding, device, kept)
            if number > 0:
                seconds.append(time.perf_counter() - began)
                progress(number)
    return seconds


def usable_prefix(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], device: torch.device
) -> CachedPrefix | None:
    """Return the cached prefix of ``prompts``, or None if it cannot be cached or would change the answers.

    As a test, the shortest and the longest prompt are computed in one batch that continues from the cached prefix. The
    logits are compared with the logits of each prompt computed alone and completely.
    """
    prefix = compute_prefix(model, prompts, device)
    if prefix is None:
        return None
    pair = [min(prompts, key=len), max(prompts, key=len)]
    try:
        return prefix if _is_equal(model, tokenizer, pair, device, prefix) else None
    except torch.OutOfMemoryError:
        return None


def _is_equal(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], device: torch.device, prefix: CachedPrefix
) -> bool:
    """Return whether two computations of ``prompts`` agree.

    In the first computation, all prompts are in one batch that continues from ``prefix``. In the second, each prompt is
    computed alone and completely. Only the logits of the first token of each answer are compared.
    """

    def alone() -> torch.Tensor:
        return torch.cat([_first_logits(model, tokenizer, [prompt], device, None) for prompt in prompts])

    found, expected = _first_logits(model, tokenizer, prompts, device, prefix), alone()
    return is_rounding(logit_difference(found, expected), model, expected=expected, recompute=alone)


def _first_logits(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], device: torch.device, prefix: CachedPrefix | None
) -> torch.Tensor:
    """Return the logits of the first token of the answer to each prompt, float ``[prompts, vocabulary]``."""
    settings = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
    output = _output(model, tokenizer, prompts, device, prefix, **settings)
    logits: torch.Tensor = output.logits[0]
    return logits


def _generate_with_halving(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    device: torch.device,
    prefix: CachedPrefix | None,
    seeds: Sequence[int],
) -> list[Answer]:
    """Return the answers to one batch, in two halves if the device has too little memory for all.

    ``seeds`` are the numbers of the prompts. The first one seeds the draws of the batch.
    """
    if decoding.temperature:
        torch.manual_seed(mix(*decoding.seed, seeds[0]))
    try:
        return _generate_batch(model, tokenizer, prompts, decoding, device, prefix)
    except torch.OutOfMemoryError:
        if len(prompts) == 1:
            raise RunFailed(
                f"{device} has too little memory to answer a prompt of {len(prompts[0])} tokens; lower "
                "spec.evaluation.maxNewTokens, use fewer shots, or use a larger device"
            ) from None
    # Outside the handler, so that the tensors of the failed call are freed.
    middle = len(prompts) // 2
    return [
        answer
        for part, own in ((prompts[:middle], seeds[:middle]), (prompts[middle:], seeds[middle:]))
        for answer in _generate_with_halving(model, tokenizer, part, decoding, device, prefix, own)
    ]


def _generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    device: torch.device,
    prefix: CachedPrefix | None,
) -> list[Answer]:
    width = max(map(len, prompts))
    criteria = [_StopCriterion(StopStrings(tokenizer, decoding.stop), width)] if decoding.stop else None
    settings: dict[str, Any] = {"max_new_tokens": decoding.max_new_tokens}
    if decoding.temperature:
        settings |= {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
    ends = end_tokens(model, tokenizer, decoding.ends)
    settings["eos_token_id"] = sorted(ends)
    output = _output(model, tokenizer, prompts, device, prefix, stopping_criteria=criteria, **settings)
    return [answer_of(tokenizer, row, ends, decoding.stop) for row in output[:, width:].tolist()]


def _output(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    device: torch.device,
    prefix: CachedPrefix | None,
    *,
    stopping_criteria: Any = None,
    **settings: Any,
) -> Any:
    """Return the output of transformers' generation for one batch, which is greedy unless ``settings`` say otherwise.

    ``settings`` are fields of transformers' ``GenerationConfig``.
    """
    from transformers import GenerationConfig

    pad = tokenizer.pad_token_id
    prefix_length = len(prefix.ids) if prefix else 0
    width = max(map(len, prompts))
    gaps = [width - len(p) for p in prompts]
    ids = torch.tensor(
        [[*p[:prefix_length], *[pad] * gap, *p[prefix_length:]] for p, gap in zip(prompts, gaps, strict=True)],
        device=device,
    )
    mask = torch.tensor(
        [[1] * prefix_length + [0] * gap + [1] * (width - prefix_length - gap) for gap in gaps], device=device
    )
    with _without_model_defaults(model):
        return model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=prefix.cache_for(len(prompts)) if prefix else None,
            generation_config=GenerationConfig(
                num_beams=1,
                pad_token_id=pad,
                use_cache=True,
                **{"do_sample": False, **settings},
            ),
            stopping_criteria=stopping_criteria,
        )


@contextmanager
def _without_model_defaults(model: Any) -> Iterator[None]:
    """Empty the model's generation config inside the ``with`` block.

    Otherwise, the values of the config, such as penalties and suppressed tokens, would be defaults for generation.
    """
    from transformers import GenerationConfig

    base = base_of(model)
    model_defaults, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = model_defaults


class _StopCriterion:
    """A stopping criterion for transformers, which ends a row once its text contains a stop string."""

    def __init__(self, stop: StopStrings, width: int) -> None:
        self._stop, self._width = stop, width

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        ended = [self._stop.end(row) for row in input_ids[:, self._width :].tolist()]
        return torch.tensor(ended, device=input_ids.device)
