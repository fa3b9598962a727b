"""Worlds, which are random formula languages, and questions that have their answers in such a language."""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from promptintern.sample.words import (
    AGGREGATES,
    BRACKETS,
    CODES,
    DAYS,
    FUNCTIONS,
    MARKS,
    NOUNS,
    REGIONS,
    SEPARATORS,
)

T = TypeVar("T")

NUM_COLUMNS, NUM_FUNCTIONS, NUM_REGIONS = 16, 6, 5

WITHOUT_REGION = (
    "What is the {measure}{days}?",
    "Show me the {measure}{days}.",
    "Find the {measure}{days}.",
    "I need the {measure}{days}.",
    "Give the {measure}{days}, please.",
)
WITH_REGION = (
    "What is the {measure}{days} in the {region}?",
    "Show me the {measure} in the {region}{days}.",
    "In the {region}, what is the {measure}{days}?",
    "Find the {measure}{days} for the {region}.",
    "For the {region}, I need the {measure}{days}.",
)
LOOK_BACK = (" over {days} days", " for the last {days} days", " of the past {days} days")

NUM_WORDINGS = len(WITH_REGION) * len(LOOK_BACK)


class Split(StrEnum):
    """A split of a world's questions, for training or evaluation."""

    TRAIN = "train"
    EVAL = "eval"


@dataclass(frozen=True, kw_only=True)
class World:
    """A formula language. The prompt template describes it in full, and a base model can know it only from there."""

    name: str
    columns: Mapping[str, str]
    """The column code of each noun."""
    functions: Mapping[str, str]
    """The function name of each aggregate word."""
    regions: Mapping[str, str]
    """The region code of each region word."""
    brackets: tuple[str, str]
    separator: str
    mark: str
    """The sign before a region's code."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, which consists of a meaning and a wording."""

    aggregate: str
    nouns: tuple[str, ...]
    """The nouns for the one or two columns that the question is about."""
    days: int | None
    region: str | None
    wording: int
    """A number that selects the phrasing of each part of the question, as an index modulo the number of
    phrasings."""

    @property
    def meaning(self) -> str:
        """The meaning of the question as text, which does not depend on the wording."""
        return f"{self.aggregate}/{'+'.join(self.nouns)}/{self.days}/{self.region}"


def make_world(
    name: str,
    *,
    num_columns: int = NUM_COLUMNS,
    num_functions: int = NUM_FUNCTIONS,
    num_regions: int = NUM_REGIONS,
    pool: int | None = None,
) -> World:
    """Return the world with the name ``name``, which is the same on every machine and with every Python version.

    If ``pool`` is given, only the first ``pool`` nouns and codes are used, as in the first level of pretraining.
    """
    rng = random.Random(name)
    codes = rng.sample(CODES[:pool], num_columns + num_regions)
    return World(
        name=name,
        columns=dict(zip(rng.sample(NOUNS[:pool], num_columns), codes[:num_columns], strict=True)),
        functions=dict(zip(rng.sample(AGGREGATES, num_functions), rng.sample(FUNCTIONS, num_functions), strict=True)),
        regions=dict(zip(rng.sample(REGIONS, num_regions), codes[num_columns:], strict=True)),
        brackets=rng.choice(BRACKETS),
        separator=rng.choice(SEPARATORS),
        mark=rng.choice(MARKS),
    )


def word_question(question: Question) -> str:
    """Return ``question`` in English, such as ``What is the total sales and price in the north?``."""
    look_back = ""
    if question.days is not None:
        look_back = LOOK_BACK[question.wording % len(LOOK_BACK)].format(days=question.days)
    phrasings = WITHOUT_REGION if question.region is None else WITH_REGION
    return phrasings[question.wording % len(phrasings)].format(
        measure=f"{question.aggregate} {' and '.join(question.nouns)}", days=look_back, region=question.region
    )


def answer_question(world: World, question: Question) -> str:
    """Return the answer to ``question`` in the world's formula language, such as ``FOLD[QX;LM]@HT``."""
    arguments = [world.columns[noun] for noun in question.nouns]
    if question.days is not None:
        arguments.append(str(question.days))
    left, right = world.brackets
    formula = f"{world.functions[question.aggregate]}{left}{world.separator.join(arguments)}{right}"
    return formula if question.region is None else f"{formula}{world.mark}{world.regions[question.region]}"


def iterate_questions(world: World, split: Split) -> Iterator[Question]:
    """Yield the world's questions of one split in a fixed order. No meaning occurs twice or in both splits.

    Nouns, regions, aggregates and forms are dealt like cards: each occurs once before any is repeated, so even a few
    questions show most of the language. About a quarter of the meanings are in the eval split. The iterator ends after
    a few thousand questions, when (almost) no questions of the world remain.
    """
    rng = random.Random(f"{world.name}/{split}")
    nouns = _deal(rng, tuple(world.columns))
    aggregates = _deal(rng, tuple(world.functions))
    regions = _deal(rng, tuple(world.regions))
    forms = _deal(rng, [(second, region) for second in ("none", "column", "days") for region in (False, True)])
    seen: set[str] = set()
    while True:
        noun, aggregate, (second, has_region) = next(nouns), next(aggregates), next(forms)
        region = next(regions) if has_region else None
        other = next(n for n in nouns if n != noun) if second == "column" else None
        for attempt in range(100):
            question = Question(
                aggregate=aggregate,
                nouns=(noun,) if other is None else (noun, other),
                days=rng.choice(DAYS) if second == "days" else None,
                region=region,
                wording=rng.randrange(NUM_WORDINGS),
            )
            if question.meaning not in seen and split_of(world, question) is split:
                break
            aggregate = rng.choice(tuple(world.functions))
            if attempt > 20:  # Hardly any question of this form is left, so ask about one noun over some days.
                second, other = "days", None
        else:
            return
        seen.add(question.meaning)
        yield question


def split_of(world: World, question: Question) -> Split:
    """Return the split of ``question``, which depends only on the world's name and on the meaning of the question."""
    digest = hashlib.sha256(f"{world.name}/{question.meaning}".encode()).digest()
    return Split.EVAL if digest[0] % 4 == 0 else Split.TRAIN


def random_question(
    world: World, rng: random.Random, *, pairs: bool = True, days: bool = True, regions: bool = True
) -> Question:
    """Return a random question in ``world``, for pretraining. Its form is one that the arguments allow."""
    seconds = ["none", *(["column"] if pairs else []), *(["days"] if days else [])]
    second = rng.choice(seconds)
    return Question(
        aggregate=rng.choice(tuple(world.functions)),
        nouns=tuple(rng.sample(tuple(world.columns), 2 if second == "column" else 1)),
        days=rng.choice(DAYS) if second == "days" else None,
        region=rng.choice(tuple(world.regions)) if regions and rng.random() < 0.5 else None,
        wording=rng.randrange(NUM_WORDINGS),
    )


def _deal(rng: random.Random, cards: Sequence[T]) -> Iterator[T]:
    while True:
        yield from rng.sample(cards, len(cards))
