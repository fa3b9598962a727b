"""Answering held-out queries, on all workers, each its share."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from promptintern.engine import distributed
from promptintern.evaluate.generate import Answer, Decoding, generate
from promptintern.pipeline.events import Answered, Observer, Stopped
from promptintern.pipeline.session import Session


def decoding_of(session: Session) -> Decoding:
    """How the job generates answers."""
    evaluation = session.job.spec.evaluation
    return Decoding(
        max_new_tokens=evaluation.max_new_tokens,
        stop=tuple(evaluation.stop),
        batch_size=evaluation.batch_size,
    )


def answer_all(
    session: Session, prompts: Sequence[Sequence[int]], *, adapter: bool, name: str, observer: Observer
) -> list[Answer]:
    """Answers to all ``prompts``, on every worker.

    Args:
        adapter: False answers with the base weights.
        name: For progress.

    Raises:
        Stopped: if a stop was asked for, on all workers after the same batch.
    """
    rank, count = distributed.rank(), distributed.world_size()
    mine = range(rank, len(prompts), count)
    decoding = decoding_of(session)

    def check_stop() -> None:
        if distributed.any_worker(observer.stop_requested()):
            raise Stopped(name)

    def progress(done: int) -> None:
        if rank == 0:
            observer.emit(Answered(name=name, done=min(done * count, len(prompts)), rows=len(prompts)))
        check_stop()

    check_stop()
    with weights(session, adapter=adapter):
        answers = generate(
            session.adapter.model,
            session.tokenizer,
            [prompts[i] for i in mine],
            decoding=decoding,
            device=session.device,
            progress=progress,
        )
    # The first worker has the most batches; all take part in as many decisions.
    for _ in range(_batches(len(range(0, len(prompts), count)), decoding) - _batches(len(mine), decoding)):
        check_stop()
    merged: dict[int, Answer] = {}
    for share in distributed.gather_objects(dict(zip(mine, answers, strict=True))):
        merged.update(share)
    return [merged[i] for i in range(len(prompts))]


def _batches(rows: int, decoding: Decoding) -> int:
    return math.ceil(rows / decoding.batch_size)


def weights(session: Session, *, adapter: bool) -> Any:
    """A context in which the model answers with its adapter, or without."""
    return nullcontext() if adapter else session.adapter.model.disable_adapter()
