"""Answers queries, divided among the workers, and the answers that are accepted."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from promptintern.answering.answers import Answer, Decoding
from promptintern.answering.generate import generate
from promptintern.engine import distributed
from promptintern.pipeline.events import Answered, Note, Observer, Stopped
from promptintern.pipeline.session import Session
from promptintern.rows.types import Row


def evaluation_folder(arm: str) -> str:
    """Return the folder of an arm's answers, relative to the run's folder."""
    return f"evaluation/{arm}"


def accepted_answers(session: Session, full_answers: Sequence[str] | None) -> list[tuple[str, ...]]:
    """Return the accepted answers to each held-out row: the written ones, or else the answers of FullPrompt.

    Args:
        full_answers: The answers of FullPrompt, or None if they are not known yet. Without them, the list is empty if
            the held-out rows have no written answers.
    """
    written = [row.answers for row in session.data.eval if isinstance(row, Row)]
    return written or [(answer,) for answer in full_answers or ()]


def decoding_of(session: Session, *, temperature: float = 0.0, seed: tuple[int, ...] = ()) -> Decoding:
    """Return the settings with which the session's job generates answers: greedily, or drawn at a temperature."""
    evaluation = session.job.spec.evaluation
    return Decoding(
        max_new_tokens=evaluation.max_new_tokens,
        stop=tuple(evaluation.stop),
        ends=session.encoder.ends,
        batch_size=evaluation.batch_size,
        temperature=temperature,
        seed=seed,
    )


def answer_prompts(
    session: Session,
    prompts: Sequence[Sequence[int]],
    *,
    use_adapter: bool,
    name: str,
    observer: Observer,
    decoding: Decoding | None = None,
    done_before: int = 0,
    total: int | None = None,
) -> list[Answer]:
    """Return an answer to each prompt. Each worker generates some of the answers, and all workers return all answers.

    Args:
        prompts: The prompts, as token ids.
        use_adapter: Whether to use the adapter; if False, the base weights alone generate the answers.
        name: The name of the stage or arm, for progress events.
        decoding: The settings with which the answers are generated, or None for those of the job.
        done_before: The number of prompts that were answered in earlier calls, for progress events.
        total: The number of prompts in all calls, or None if this is the only call.

    Raises:
        Stopped: if a stop was requested; all workers raise this error after the same batch.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    own_indices = distributed.own_share(len(prompts))
    decoding = decoding or decoding_of(session)

    def check_stop() -> None:
        if distributed.any_worker(observer.stop_requested()):
            raise Stopped(name)

    def progress(done: int) -> None:
        if rank == 0:
            done_now = done_before + min(done * world_size, len(prompts))
            observer.emit(Answered(name=name, done=done_now, rows=len(prompts) if total is None else total))
            session.clock.tick()
        check_stop()

    def note(text: str) -> None:
        if rank == 0 and text not in session.noted:
            session.noted.add(text)
            observer.emit(Note(text=text))

    check_stop()
    own_prompts = [prompts[i] for i in own_indices]
    if session.engine is not None:
        note("vLLM generates the answers. It takes a minute or more to start.")
        answers = session.engine.answer(
            session.adapter,
            session.tokenizer,
            own_prompts,
            numbers=own_indices,
            use_adapter=use_adapter,
            decoding=decoding,
            progress=progress,
        )
    else:
        with adapter_context(session, use_adapter=use_adapter):
            answers = generate(
                session.adapter.model,
                session.tokenizer,
                own_prompts,
                numbers=own_indices,
                decoding=decoding,
                device=session.device,
                progress=progress,
                note=note,
            )
    # Each check is a collective operation, so workers with fewer batches than the first one catch up here.
    for _ in range(_batches(len(range(0, len(prompts), world_size)), decoding) - _batches(len(own_indices), decoding)):
        check_stop()
    return distributed.gather_shares(answers, len(prompts))


def _batches(rows: int, decoding: Decoding) -> int:
    return math.ceil(rows / decoding.batch_size)


def adapter_context(session: Session, *, use_adapter: bool) -> Any:
    """Return a context in which the model uses its adapter (``use_adapter``), or else only the base weights."""
    return nullcontext() if use_adapter else session.adapter.model.disable_adapter()
