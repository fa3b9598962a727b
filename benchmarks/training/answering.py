"""Measures the cost of an answer with the full prompt and with the query alone."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.training.material import Row, Shape, build_model, read_stage
from benchmarks.training.processes import OURS, in_new_process, say

_NEW_TOKENS = 24
_ALONE, _BATCH = 12, 32


@dataclass(frozen=True, kw_only=True)
class Answering:
    """The cost of an answer to one kind of prompt.

    Attributes:
        prompt: The mean number of prompt tokens.
        alone: The median time of an answer in seconds, when prompts are answered one by one.
        batched: The time per answer in seconds, in batches of 32.
        evaluated: The time per answer in seconds in a run's evaluation, which computes the common beginning of all
            prompts only once.
    """

    prompt: float
    alone: float
    batched: float
    evaluated: float


def answering(material: Path, shape: Shape, *, repeats: int, last: int) -> dict[str, Answering]:
    """Return the cost of an answer to the full prompt and to the query only. Times are medians of ``repeats`` rounds.

    Args:
        last: The index of the stage whose prompts are the query alone.
    """
    found: dict[str, list[Answering]] = {"full prompt": [], "query only": []}
    for repeat in range(repeats):
        for (name, measured), stage in zip(found.items(), (0, last), strict=True):
            say(f"round {repeat + 1} of {repeats}: answers to the {name}")
            rows = read_stage(material, stage)[:_BATCH]
            measured.append(in_new_process(answer, rows, shape, material / "tokenizer", method=OURS))
    return {
        name: Answering(
            prompt=measured[0].prompt,
            alone=statistics.median(m.alone for m in measured),
            batched=statistics.median(m.batched for m in measured),
            evaluated=statistics.median(m.evaluated for m in measured),
        )
        for name, measured in found.items()
    }


def answer(rows: list[Row], shape: Shape, tokenizer: Path) -> Answering:
    """Measure greedy answers to the prompts of ``rows`` as a run measures latency. All answers are equally long."""
    import torch
    from promptintern.answering.answers import Decoding
    from promptintern.answering.batches import answer_in_batches, time_queries
    from promptintern.answering.generate import generate
    from transformers import AutoTokenizer

    model, loaded, device = build_model(shape), AutoTokenizer.from_pretrained(tokenizer), torch.device(shape.device)
    model.config.eos_token_id = model.generation_config.eos_token_id = (
        None  # a random model would end its answers at random
    )
    prompts = [prompt for prompt, _ in rows]
    decoding = Decoding(max_new_tokens=_NEW_TOKENS, batch_size=_BATCH)
    alone = time_queries(model, loaded, prompts[:_ALONE], decoding=decoding, device=device)

    def each(answer_all: Callable[..., Any], **options: Any) -> float:
        began = time.perf_counter()
        answer_all(model, loaded, prompts, decoding=decoding, device=device, **options)
        return (time.perf_counter() - began) / len(prompts)

    return Answering(
        prompt=statistics.mean(map(len, prompts)),
        alone=statistics.median(alone),
        batched=each(answer_in_batches, share_prefix=False),
        evaluated=each(generate),
    )
