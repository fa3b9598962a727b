"""Encoded rows, for tests."""

import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from promptintern.prompt.encode import Encoded
from promptintern.prompt.teacher_targets import TeacherTargets
from promptintern_api.training import TeacherLoss

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


def taught(rows: Sequence[Encoded], *, loss: TeacherLoss, k: int = 5, seed: int = 0) -> list[Encoded]:
    """The rows, of which two in three have a teacher with random distributions; all of them have different weights."""
    draw = np.random.default_rng(seed)
    changed = []
    for i, row in enumerate(rows):
        if i % 3 == 0:
            changed.append(replace(row, weight=1 + i / 10))
            continue
        logits = draw.normal(size=(len(row.answer_ids), VOCABULARY)) * 2
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        ids = np.argsort(-p, axis=1)[:, :k]
        best = np.take_along_axis(p, ids, axis=1)
        targets = TeacherTargets(
            ids=ids.astype(np.int32),
            log_probs=np.log(best).astype(np.float32),
            rest=np.log(1 - best.sum(1)).astype(np.float32),
            loss=loss,
            weight=0.5 + i / 10,
        )
        changed.append(replace(row, weight=0.25 * (i % 2), teacher=targets))
    return changed
