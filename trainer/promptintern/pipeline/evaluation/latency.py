"""Measures how long answers take, one by one and in batches, with the full prompt and with the run's adapter."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from promptintern_api.evaluation import Arm

from promptintern.answering.batches import answer_in_batches, time_queries, usable_prefix
from promptintern.answering.prefix import CachedPrefix
from promptintern.engine import distributed
from promptintern.pipeline.evaluation.held_out import adapter_context, decoding_of
from promptintern.pipeline.events import Answered, Note, Observer
from promptintern.pipeline.session import Session
from promptintern.pipeline.training import TrackTrainer
from promptintern.storage.run import RunStore

LATENCY_FOLDER = "evaluation/latency"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The adapter that results from a run, and the prompts that the adapter expects."""

    stage: int
    digest: str
    """The digest of the manifest of the stage whose adapter is the result."""
    arm: str
    prompts: Sequence[Sequence[int]]
    """The prompts that the adapter expects for all held-out rows, as token ids."""


def measure_latency(
    session: Session,
    store: RunStore,
    trainer: TrackTrainer,
    result: Result | None,
    *,
    full: Sequence[Sequence[int]],
    observer: Observer,
) -> None:
    """Time the answers to the first ``latencyQueries`` held-out queries on rank 0, and store the times.

    Prompts with the template are timed twice: each prompt computed completely, and with the shared beginning of all
    prompts computed before, as on a server that keeps it between requests. The adapter is timed while it is merged into
    the base weights, as in serving. The model must not be used afterwards, because merging and unmerging change the
    base weights by rounding errors.

    Args:
        result: The run's adapter with its prompts; None if no stage passed the gate.
        full: The full prompts of all held-out rows, as token ids.
    """
    count = min(session.job.spec.evaluation.latency_queries, len(full))
    parent = result.digest if result is not None else None
    stored = distributed.from_rank_zero(lambda: store.committed_document(LATENCY_FOLDER, parent=parent))
    if count == 0 or stored is not None:
        return
    session.free_device()
    if result is not None:
        trainer.load(str(result.stage))
    if distributed.rank() == 0:
        observer.emit(Note(text=f"timing {count} queries one by one and in batches"))
        figures = _measure_both(session, Arm.FULL_PROMPT, full, count, observer)
        if Arm.TEMPLATE_ONLY in session.job.spec.evaluation.arms and session.examples.shots > 0:
            template_only = session.encode_held_out(session.full_template, 0)
            figures |= _measure_both(session, Arm.TEMPLATE_ONLY, template_only, count, observer)
        if result is not None:
            session.adapter.model.merge_adapter()
            figures[result.arm] = _measure_answers(
                session, result.arm, result.prompts, count, observer, use_adapter=True
            )
            session.adapter.model.unmerge_adapter()
        store.commit_document(LATENCY_FOLDER, figures, term=trainer.term, parent=parent)
    distributed.barrier()


def kept_name(arm: str) -> str:
    """Return the name under which the times of ``arm`` with a kept beginning of its prompts are stored."""
    return f"{arm}, beginning kept"


def _measure_both(
    session: Session, arm: Arm, prompts: Sequence[Sequence[int]], count: int, observer: Observer
) -> dict[str, Any]:
    """Return the times of an arm of the base model, and those with the prompts' beginning kept if that is possible."""
    name = str(arm)
    figures = {name: _measure_answers(session, name, prompts, count, observer, use_adapter=False)}
    with adapter_context(session, use_adapter=False):
        kept = usable_prefix(session.adapter.model, session.tokenizer, prompts, session.device)
    if kept is not None:
        name = kept_name(arm)
        figures[name] = _measure_answers(session, name, prompts, count, observer, use_adapter=False, kept=kept)
    return figures


def _measure_answers(
    session: Session,
    name: str,
    prompts: Sequence[Sequence[int]],
    count: int,
    observer: Observer,
    *,
    use_adapter: bool,
    kept: CachedPrefix | None = None,
) -> dict[str, Any]:
    decoding = decoding_of(session)
    model, tokenizer, device = session.adapter.model, session.tokenizer, session.device
    batched = prompts[: max(count, decoding.batch_size)]

    def tell(done: int) -> None:
        observer.emit(Answered(name=f"times of {name}", done=done, rows=count + len(batched)))

    with adapter_context(session, use_adapter=use_adapter):
        single_seconds = time_queries(
            model, tokenizer, prompts[:count], decoding=decoding, device=device, kept=kept, progress=tell
        )
        began = time.perf_counter()
        answer_in_batches(model, tokenizer, batched, decoding=decoding, device=device, share_prefix=False, kept=kept)
        tell(count + len(batched))
        return {
            "secondsAlone": single_seconds,
            "batchedSeconds": time.perf_counter() - began,
            "batchedQueries": len(batched),
            "batchSize": min(decoding.batch_size, len(batched)),
        }
