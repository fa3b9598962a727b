"""Draws several answers to each held-out row, and counts those whose programs pass, for pass@k."""

from collections.abc import Sequence

from promptintern_api.evaluation import Arm
from promptintern_api.metrics import Metric

from promptintern.engine import distributed
from promptintern.engine.seeding import mix
from promptintern.pipeline.evaluation.held_out import answer_prompts, decoding_of
from promptintern.pipeline.evaluation.judging import judge
from promptintern.pipeline.evaluation.latency import Result
from promptintern.pipeline.events import Note, Observer
from promptintern.pipeline.session import Session
from promptintern.pipeline.training import TrackTrainer
from promptintern.sandbox.verdict import Verdict
from promptintern.storage.run import RunStore

DRAWN_FOLDER = "evaluation/drawn"
_SEED = 5
"""A number that makes these draws differ from those of teachers and of queries."""


def count_passes(
    session: Session,
    store: RunStore,
    trainer: TrackTrainer,
    result: Result | None,
    *,
    full: Sequence[Sequence[int]],
    accepted: Sequence[Sequence[str]],
    observer: Observer,
) -> None:
    """Draw answers of FullPrompt and of the run's result, run their programs, and commit the numbers of passes.

    Nothing happens if the job does not ask for pass@k, or if the numbers are committed already.

    Args:
        session: The session of this worker.
        store: The store of the run.
        trainer: The trainer, which loads the result's adapter.
        result: The run's adapter with its prompts; None if no stage passed the gate.
        full: The full prompts of all held-out rows, as token ids.
        accepted: The accepted answers of all held-out rows.
        observer: The receiver of events.

    Raises:
        Stopped: if a stop was requested.
    """
    draws = session.job.spec.evaluation.pass_at_k
    parent = result.digest if result is not None else None
    if draws is None:
        return
    if distributed.from_rank_zero(lambda: store.committed_document(DRAWN_FOLDER, parent=parent)) is not None:
        return
    arms: list[tuple[str, Sequence[Sequence[int]], bool]] = [(str(Arm.FULL_PROMPT), full, False)]
    if result is not None:
        trainer.load(str(result.stage))
        arms.append((result.arm, result.prompts, True))
    passes: dict[str, list[int]] = {}
    for number, (arm, prompts, use_adapter) in enumerate(arms):
        counts = [0] * len(prompts)
        for sample in range(draws.samples):
            answers = answer_prompts(
                session,
                prompts,
                use_adapter=use_adapter,
                name=f"draws of {arm}",
                observer=observer,
                decoding=decoding_of(
                    session,
                    temperature=draws.temperature,
                    seed=(mix(session.job.spec.training.seed, _SEED), number, sample),
                ),
                done_before=sample * len(prompts),
                total=draws.samples * len(prompts),
            )
            texts = [answer.text for answer in answers]
            verdicts = judge(session, texts, [Metric.PASS_AT_1], accepted).verdicts or []
            counts = [count + (verdict is Verdict.PASSED) for count, verdict in zip(counts, verdicts, strict=True)]
        passes[arm] = counts
    document = {"samples": draws.samples, "temperature": draws.temperature, "passes": passes}
    distributed.from_rank_zero(lambda: store.commit_document(DRAWN_FOLDER, document, term=trainer.term, parent=parent))
    if distributed.rank() == 0:
        told = ", ".join(f"{sum(map(bool, counts))} with {arm}" for arm, counts in passes.items())
        observer.emit(Note(text=f"rows of {len(full)} with a pass among {draws.samples} draws: {told}"))
