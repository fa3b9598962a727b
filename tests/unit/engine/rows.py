"""Encoded rows, for tests."""

import random
from array import array
from collections.abc import Iterable

from promptintern.prompt.encode import Encoded

from tests.tiny import VOCABULARY


def encoded(prompt: Iterable[int], answer: Iterable[int]) -> Encoded:
    """A row."""
    return Encoded(prompt_ids=memoryview(array("i", prompt)), answer_ids=memoryview(array("i", answer)))


def random_ids(draw: random.Random, count: int) -> list[int]:
    """Random ids of tokens that are not special."""
    return [draw.randrange(3, VOCABULARY) for _ in range(count)]


def random_rows(seed: int, count: int) -> list[Encoded]:
    """Rows that have nothing in common."""
    draw = random.Random(seed)
    return [encoded(random_ids(draw, draw.randint(1, 20)), random_ids(draw, draw.randint(1, 6))) for _ in range(count)]


def random_family(seed: int, count: int, *, template: int = 40, longest: int = 40) -> list[Encoded]:
    """Rows with one template, three sets of examples, and now and then the same prompt; not in any order."""
    draw = random.Random(seed)
    root = random_ids(draw, template)
    examples = [random_ids(draw, draw.randint(1, longest)) for _ in range(3)]
    rows = []
    for _ in range(count):
        query = random_ids(draw, draw.randint(1, 20)) if draw.random() < 0.7 else []
        rows.append(encoded([*root, *draw.choice(examples), *query], random_ids(draw, draw.randint(1, 6))))
    return rows
