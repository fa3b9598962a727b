"""Finds the sentences of the template without which the base model gives the same answers to the training rows."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from promptintern.compress import CompressedTemplate, uncompressed
from promptintern.engine import distributed
from promptintern.errors import UserError
from promptintern.pipeline.events import Note, Observer, Stopped
from promptintern.pipeline.session import Session
from promptintern.pipeline.teaching.lessons import Lesson, lesson_rows
from promptintern.pipeline.teaching.scoring import divergence_of_rows, score_rows, with_divergence
from promptintern.pipeline.teaching.settings import default_top_k
from promptintern.prompt.coverage import sentences, without_sentence
from promptintern.prompt.encode import Encoded
from promptintern.prompt.template import parse_template
from promptintern.storage.run import RunStore

T = TypeVar("T")
COVERAGE_FOLDER = "evaluation/coverage"
MAX_SENTENCES = 32
"""The number of sentences, from the start of the template, that are tried."""
MAX_ROWS = 32
"""The number of training rows whose answers are scored."""
MIN_DIVERGENCE = 0.01
"""The mean divergence per answer, in nats, from which on a sentence counts as needed."""


def find_unneeded_sentences(session: Session, store: RunStore, *, term: int, observer: Observer) -> list[str]:
    """Return the sentences of the template that no training row needs, and commit them.

    A sentence is not needed if the base model with the full prompt has nearly the same distributions at the answer
    tokens of the first ``MAX_ROWS`` training rows without this sentence. The adapter must be new, so that the model
    computes what the base model computes.

    Raises:
        Stopped: if a stop was requested.
    """
    document = distributed.from_rank_zero(lambda: store.committed_document(COVERAGE_FOLDER, parent=None))
    if document is None:
        tried = sentences(session.job.spec.prompt.template)[:MAX_SENTENCES]
        found = _unneeded(session, tried, observer) if tried else []
        new = {"tried": len(tried), "unneeded": found}
        document = distributed.from_rank_zero(
            lambda: store.commit_document(COVERAGE_FOLDER, new, term=term, parent=None)
        )
    unneeded: list[str] = document["unneeded"]
    return unneeded


def _unneeded(session: Session, tried: Sequence[str], observer: Observer) -> list[str]:
    written = range(min(MAX_ROWS, len(session.data.train)))
    lessons = [lesson for lesson in session.lessons.lessons if lesson.row >= len(session.data.train)]
    sample = _Sample(session=session, written=written, lessons=lessons[: MAX_ROWS - len(written)])
    if not sample.rows:
        return []
    top_k = default_top_k(session.adapter.model.get_base_model().config)
    taught = _unless_out_of_memory(lambda: score_rows(session, sample.encode(session.full_template), top_k))
    found: list[str] = []
    for sentence in tried:
        if distributed.any_worker(observer.stop_requested()):
            raise Stopped("the check of the template's sentences")
        template = _without(session, sentence)
        if template is None:
            continue
        total = None
        if taught is not None:
            rows = map(with_divergence, sample.encode(template), taught)
            total = _unless_out_of_memory(partial(divergence_of_rows, session, list(rows)))
        if total is None:
            if distributed.rank() == 0:
                text = "the template's sentences are not checked, because the device has too little memory"
                observer.emit(Note(text=text))
            return []
        if sum(distributed.gather_objects(total)) < MIN_DIVERGENCE * sample.rows:
            found.append(sentence)
    return found


def _unless_out_of_memory(compute: Callable[[], T]) -> T | None:
    """Return what ``compute`` returns, or None on all workers if the device of any of them has too little memory."""
    result = None
    with contextlib.suppress(torch.OutOfMemoryError):
        result = compute()
    return None if distributed.any_worker(result is None) else result


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The training rows whose answers are scored."""

    session: Session
    written: range
    """The indices of the rows with written answers."""
    lessons: Sequence[Lesson]
    """The answers of the teacher."""

    @property
    def rows(self) -> int:
        """The number of rows, over all workers."""
        return len(self.written) + len(self.lessons)

    def encode(self, template: CompressedTemplate) -> list[Encoded]:
        """Return this worker's rows with ``template`` and the examples of the full prompt."""
        session, shots = self.session, self.session.examples.shots
        answers = [session.data.train[i].answer for i in self.written]
        rows = session.encoder.encode(session.prompts_of(self.written, template, shots), answers)
        prompts = session.prompts_of([lesson.row for lesson in self.lessons], template, shots)
        rows += lesson_rows(self.lessons, session.encoder.encode_prompts(prompts))
        return [rows[i] for i in distributed.own_share(len(rows))]


def _without(session: Session, sentence: str) -> CompressedTemplate | None:
    """Return the template without ``sentence``, or None if nothing else is left that could be a template."""
    prompt = session.job.spec.prompt
    text = without_sentence(prompt.template, sentence)
    try:
        parsed = parse_template(text, [span for span in prompt.protect if span in text])
    except UserError:
        return None
    return uncompressed(parsed, session.tokenizer)
