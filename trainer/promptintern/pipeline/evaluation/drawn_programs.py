"""Draws several answers to each held-out row, and counts those whose programs pass, for pass@k."""

from collections.abc import Mapping, Sequence
from functools import partial

from promptintern_api.evaluation import Arm
from promptintern_api.metrics import Metric

from promptintern.engine import distributed
from promptintern.engine.seeding import mix
from promptintern.pipeline.evaluation.held_out import answer_prompts, decoding_of
from promptintern.pipeline.evaluation.judging import judge
from promptintern.pipeline.evaluation.latency import Result
from promptintern.pipeline.events import Observer
from promptintern.pipeline.session import Session
from promptintern.pipeline.training import TrackTrainer
from promptintern.sandbox.verdict import Verdict
from promptintern.storage.run import RunStore

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
    """Draw answers of FullPrompt and of the run's result, run their programs, and commit which of them passed.

    Nothing happens if the job does not ask for pass@k. Each draw of all rows is committed by itself, so a run that was
    stopped goes on with the next one.

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
    if draws is None:
        return
    arms: list[tuple[str, Sequence[Sequence[int]], str | None]] = [(str(Arm.FULL_PROMPT), full, None)]
    if result is not None:
        trainer.load(str(result.stage))
        arms.append((result.arm, result.prompts, result.digest))
    for number, (arm, prompts, parent) in enumerate(arms):
        for sample in range(draws.samples):
            folder = _folder(arm, sample)
            committed = partial(store.committed_document, folder, parent=parent)
            if distributed.from_rank_zero(committed) is not None:
                continue
            answers = answer_prompts(
                session,
                prompts,
                use_adapter=parent is not None,
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
            document = {"passed": [verdict is Verdict.PASSED for verdict in verdicts]}
            distributed.from_rank_zero(
                partial(store.commit_document, folder, document, term=trainer.term, parent=parent)
            )


def read_passes(store: RunStore, samples: int, parents: Mapping[str, str | None]) -> dict[str, list[int]]:
    """Return the number of passes of each held-out row, by arm, of all arms whose draws are complete.

    Args:
        store: The store of the run.
        samples: The number of answers that were drawn for each row.
        parents: The digest, by arm, of the manifest that lists the adapter of the arm; None for the base weights.
    """
    passes: dict[str, list[int]] = {}
    for arm, parent in parents.items():
        documents = [store.committed_document(_folder(arm, sample), parent=parent) for sample in range(samples)]
        drawn = [document["passed"] for document in documents if document is not None]
        if len(drawn) == samples:
            passes[arm] = [sum(row) for row in zip(*drawn, strict=True)]
    return passes


def _folder(arm: str, sample: int) -> str:
    return f"evaluation/drawn/{arm}-{sample}"
