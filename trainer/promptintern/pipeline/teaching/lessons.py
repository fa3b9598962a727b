"""Lessons: what a teacher says about rows, as storage holds it and as the stages learn it.

A row is a query without an answer, which the teacher answers, or a training row, whose written answer it scores.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from promptintern_api.training import Teacher, TeacherLoss
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from promptintern.document import Document
from promptintern.errors import RunFailed
from promptintern.prompt.encode import Encoded
from promptintern.prompt.teacher_targets import TeacherTargets
from promptintern.storage.local import writing_files

_MAX = 10**12
"""The largest number of tokens or seconds that a cost may have."""
_ANSWERS, _DISTRIBUTIONS = "answers.json", "distributions.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributions:
    """The teacher's distributions over the next token at ``N`` answer tokens.

    Attributes:
        ids: The ``k`` most likely tokens ``[N, k]``.
        log_probs: The logarithms of the probabilities of these tokens and of all other tokens together ``[N, k + 1]``.
    """

    ids: NDArray[np.int32]
    log_probs: NDArray[np.float32]

    def cut(self, start: int, stop: int) -> "Distributions":
        """Return the distributions at the tokens from ``start`` to ``stop``."""
        return Distributions(ids=self.ids[start:stop], log_probs=self.log_probs[start:stop])


class TeacherAnswer(Document):
    """The answer to one row that the teacher gave or scored, as storage holds it."""

    row: int = Field(ge=0)
    """The index of the row among the training rows and, after them, the queries without answers."""
    text: str
    tokens: list[int] = Field(min_length=1)
    """The token ids of the answer, including the end token."""


class UnansweredQuery(Document):
    """A query that the teacher could not answer."""

    row: int = Field(ge=0)
    """The index of the query, counted as in ``TeacherAnswer``."""
    reason: str


class TeachingCost(Document):
    """What the teacher's answers and distributions cost; the manifest of a shard holds it."""

    answer_tokens: int = Field(default=0, ge=0, le=_MAX)
    """The number of tokens that the teacher generated, including those of answers that are left out."""
    answer_seconds: float = Field(default=0.0, ge=0, le=_MAX)
    """The time that it took to generate them."""
    score_seconds: float = Field(default=0.0, ge=0, le=_MAX)
    """The time that it took to compute the distributions."""

    def __add__(self, other: "TeachingCost") -> "TeachingCost":
        return TeachingCost(
            answer_tokens=min(_MAX, self.answer_tokens + other.answer_tokens),
            answer_seconds=min(_MAX, self.answer_seconds + other.answer_seconds),
            score_seconds=min(_MAX, self.score_seconds + other.score_seconds),
        )


def read_cost(meta: Mapping[str, Any], where: str) -> TeachingCost:
    """Return the cost in ``meta``, which is the field ``meta`` of a shard's manifest below ``where``.

    Raises:
        RunFailed: if it is not a cost.
    """
    try:
        return TeachingCost.model_validate(meta)
    except ValidationError as error:
        raise RunFailed(
            f"{where} has a damaged manifest ({error.errors()[0]['msg']}); remove the folder of the teacher, and the "
            "run creates it again"
        ) from None


class Shard(Document):
    """The answers to the rows of one shard."""

    answers: list[TeacherAnswer]
    dropped: list[UnansweredQuery]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The answer to one row, as the stages learn it."""

    row: int
    """The index of the row among the training rows and, after them, the queries without answers."""
    text: str
    answer_ids: "array[int]"
    """The token ids of the answer, including the end token."""
    weight: float
    """The weight of the cross-entropy of each answer token."""
    targets: TeacherTargets | None
    """The teacher's distributions at the answer tokens; None if only the answer is learned."""


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """The lessons of a teacher or of a shard."""

    lessons: Sequence[Lesson] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    """The number of queries that the teacher could not answer, by reason."""
    cost: TeachingCost = field(default_factory=TeachingCost)


def lesson_rows(lessons: Sequence[Lesson], prompts: "Sequence[array[int]]") -> list[Encoded]:
    """Return the encoded rows that consist of ``prompts``, one for each lesson, and the lessons' answers."""
    return [
        Encoded(
            prompt_ids=memoryview(prompt),
            answer_ids=memoryview(lesson.answer_ids),
            weight=lesson.weight,
            teacher=lesson.targets,
        )
        for prompt, lesson in zip(prompts, lessons, strict=True)
    ]


def join_lessons(parts: Iterable[Lessons]) -> Lessons:
    """Return the lessons of all ``parts`` in order."""
    lessons: list[Lesson] = []
    dropped: dict[str, int] = {}
    cost = TeachingCost()
    for part in parts:
        lessons += part.lessons
        cost += part.cost
        for reason, count in part.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return Lessons(lessons=lessons, dropped=dropped, cost=cost)


def write_shard(folder: Path, shard: Shard, distributions: Distributions | None) -> None:
    """Write the files of a shard to ``folder``.

    Args:
        distributions: The distributions at the tokens of all answers, one answer after another, or None if only the
            answers are learned.

    Raises:
        UserError: if the folder cannot be written to.
        RunFailed: if there is no space left.
    """
    text = json.dumps(shard.model_dump(mode="json", by_alias=True), ensure_ascii=False, indent=0)
    with writing_files(folder):
        (folder / _ANSWERS).write_text(text + "\n", encoding="utf-8")
        if distributions is not None:
            save_file({"ids": distributions.ids, "log_probs": distributions.log_probs}, folder / _DISTRIBUTIONS)


def read_lessons(
    folder: Path,
    meta: Mapping[str, Any],
    *,
    teacher: Teacher,
    rows: range,
    written: int,
    top_k: int,
    vocabulary: int,
    where: str,
) -> Lessons:
    """Return the lessons of the shard in ``folder``.

    Args:
        meta: The field ``meta`` of the shard's manifest, which holds the cost of the shard.
        rows: The indices of the shard's rows.
        written: The number of training rows. The rows before this index have written answers.
        top_k: The number of tokens of each distribution.
        vocabulary: The number of token ids of the model.
        where: The place of the shard in storage, for messages.

    Raises:
        RunFailed: if the files are not those of a shard of this run.
    """
    try:
        cost = TeachingCost.model_validate(meta)
        shard = Shard.model_validate_json((folder / _ANSWERS).read_bytes())
        if fault := _fault_of(shard, rows, vocabulary):
            raise ValueError(fault)
        targets: Iterable[TeacherTargets | None] = [None] * len(shard.answers)
        if teacher.loss is not TeacherLoss.ANSWERS and shard.answers:
            lengths = [len(answer.tokens) for answer in shard.answers]
            distributions = _read_distributions(folder, tokens=sum(lengths), top_k=top_k, vocabulary=vocabulary)
            targets = _targets(distributions, lengths, teacher)
    except (ValidationError, ValueError, OSError, KeyError, SafetensorError) as error:
        message = str(error).splitlines()[0]
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            message = f"{'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}"
        raise RunFailed(
            f"{where} holds no valid answers of the teacher ({message}); remove this folder, and the run creates it "
            "again"
        ) from None
    weight = teacher.weight if teacher.loss is TeacherLoss.ANSWERS else 0.0
    dropped: dict[str, int] = {}
    for entry in shard.dropped:
        dropped[entry.reason] = dropped.get(entry.reason, 0) + 1
    return Lessons(
        lessons=[
            Lesson(
                row=answer.row,
                text=answer.text,
                answer_ids=array("i", answer.tokens),
                weight=1.0 if answer.row < written else weight,
                targets=target,
            )
            for answer, target in zip(shard.answers, targets, strict=True)
        ],
        dropped=dropped,
        cost=cost,
    )


def _fault_of(shard: Shard, rows: range, vocabulary: int) -> str | None:
    """Return what is wrong with the answers of a shard, or None if nothing is."""
    found = sorted([answer.row for answer in shard.answers] + [entry.row for entry in shard.dropped])
    if found != list(rows):
        return f"it has other rows than {rows.start} to {rows.stop - 1}"
    if not all(0 <= token < vocabulary for answer in shard.answers for token in answer.tokens):
        return f"a token id is outside the vocabulary of {vocabulary} tokens"
    return None


def _read_distributions(folder: Path, *, tokens: int, top_k: int, vocabulary: int) -> Distributions:
    """Return the distributions of a shard.

    Raises:
        ValueError: if they are not distributions of ``top_k`` tokens at ``tokens`` answer tokens.
    """
    tensors = load_file(folder / _DISTRIBUTIONS)
    ids, log_probs = tensors["ids"], tensors["log_probs"]
    if (ids.dtype, log_probs.dtype) != (np.int32, np.float32):
        raise ValueError(f"its distributions have the types {ids.dtype} and {log_probs.dtype}")
    if ids.shape != (tokens, top_k) or log_probs.shape != (tokens, top_k + 1):
        raise ValueError(f"its distributions have the shapes {ids.shape} and {log_probs.shape}")
    if ids.min() < 0 or ids.max() >= vocabulary or not (log_probs <= 1e-3).all():
        raise ValueError("its distributions contain impossible values")
    return Distributions(ids=ids, log_probs=log_probs)


def _targets(distributions: Distributions, lengths: Sequence[int], teacher: Teacher) -> Iterator[TeacherTargets]:
    """Yield the targets of each answer, whose distributions follow one another."""
    start = 0
    for length in lengths:
        cut = distributions.cut(start, start + length)
        start += length
        yield TeacherTargets(
            ids=cut.ids,
            log_probs=cut.log_probs[:, :-1],
            rest=cut.log_probs[:, -1],
            loss=teacher.loss,
            weight=teacher.weight,
        )
