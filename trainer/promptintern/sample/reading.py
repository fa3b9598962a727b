"""Measures how well a model reads its prompt, by the exact match on worlds that were not in pretraining."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from promptintern.sample.prose import CUE, EXAMPLE_TEMPLATE, world_template
from promptintern.sample.worlds import Question, Split, answer_question, iterate_questions, make_world, word_question

LONGEST_ANSWER = 16


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A prompt and its only right answer."""

    prompt: str
    answer: str


def make_probes(world_name: str, *, questions: int, shots: int, pool: int = 128) -> list[Probe]:
    """Return held-out questions of a world with full prompts. The examples are the nearest of ``pool`` questions."""
    world = make_world(world_name)
    template = world_template(world)
    examples = list(islice(iterate_questions(world, Split.TRAIN), pool))

    def block(question: Question) -> Iterator[str]:
        for example in _nearest(question, examples, shots):
            yield EXAMPLE_TEMPLATE.format(query=word_question(example), answer=answer_question(world, example))

    return [
        Probe(
            prompt=template.replace("{examples}", "".join(block(question))).replace("{query}", word_question(question)),
            answer=answer_question(world, question),
        )
        for question in islice(iterate_questions(world, Split.EVAL), questions)
    ]


def make_query_only_probes(world_name: str, *, questions: int) -> list[Probe]:
    """Return the held-out questions of ``make_probes`` without the template, like the prompts of the final stage."""
    world = make_world(world_name)
    return [
        Probe(prompt=word_question(question) + CUE, answer=answer_question(world, question))
        for question in islice(iterate_questions(world, Split.EVAL), questions)
    ]


@torch.no_grad()
def exact_match(model: Any, tokenizer: Any, probes: Sequence[Probe], *, batch: int = 50) -> float:
    """Return the share of probes that greedy decoding answers exactly."""
    model.eval()
    right = 0
    for start in range(0, len(probes), batch):
        chunk = probes[start : start + batch]
        inputs = tokenizer(
            [probe.prompt for probe in chunk], padding=True, return_tensors="pt", add_special_tokens=False
        )
        generated = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=LONGEST_ANSWER,
            do_sample=False,
        )[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
        right += sum(text == probe.answer for text, probe in zip(texts, chunk, strict=True))
    return right / len(probes)


def _nearest(question: Question, pool: Sequence[Question], count: int) -> list[Question]:
    words = set(word_question(question).split())
    ranked = sorted(pool, key=lambda example: -len(words & set(word_question(example).split())))
    return ranked[:count][::-1]
