"""Checks what the trained model still does under another prompt than the one that it internalized."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from promptintern_api import PromptInternJob
from promptintern_api.evaluation import Retention

from promptintern.engine import distributed
from promptintern.errors import RunFailed, UserError
from promptintern.evaluate.neutral import NEUTRAL_PROMPTS
from promptintern.pipeline.evaluation.held_out import answer_prompts
from promptintern.pipeline.evaluation.latency import Result
from promptintern.pipeline.events import Note, Observer
from promptintern.pipeline.inputs import Data
from promptintern.pipeline.session import Session
from promptintern.pipeline.teaching.scoring import divergence_of_rows, score_rows, with_divergence
from promptintern.pipeline.teaching.settings import default_top_k
from promptintern.pipeline.teaching.teaching_pass import encode_where_possible
from promptintern.pipeline.training import TrackTrainer
from promptintern.prompt.encode import Encoded, PromptEncoder
from promptintern.report.facts import RetentionFacts
from promptintern.storage.run import RunStore

RETENTION_FOLDER = "evaluation/retention"
_FIELD = "spec.evaluation.retention"


@dataclass(frozen=True, kw_only=True)
class RetentionPrompts:
    """The prompts of the check, as texts and as token ids."""

    settings: Retention
    texts: list[str]
    ids: list[list[int]]
    too_long: int
    """The number of prompts that are left out because they do not fit the context length."""


def retention_prompts(session: Session) -> RetentionPrompts | None:
    """Return the prompts of the check that fit the context length, or None if the job asks for no check.

    Raises:
        UserError: if no prompt fits.
    """
    return fitting_prompts(session.job, session.data, session.encoder, max_tokens=session.max_tokens)


def fitting_prompts(
    job: PromptInternJob, data: Data, encoder: PromptEncoder, *, max_tokens: int
) -> RetentionPrompts | None:
    """Return the prompts of the check that fit into ``max_tokens`` tokens, or None if the job asks for no check.

    Raises:
        UserError: if no prompt fits.
    """
    settings = job.spec.evaluation.retention
    if settings is None:
        return None
    queries = [query.query for query in data.retention] if settings.data else list(NEUTRAL_PROMPTS)
    texts = [(settings.template or "{query}").replace("{query}", query) for query in queries]
    room = max_tokens - job.spec.evaluation.max_new_tokens
    prompts = [
        (text, list(ids)) for text, ids in zip(texts, encoder.encode_prompts(texts), strict=True) if len(ids) <= room
    ]
    if not prompts:
        raise UserError.at(
            _FIELD,
            f"no prompt fits: a prompt may have {room} tokens, which are training.maxTokens less "
            "evaluation.maxNewTokens; shorten the template or the queries",
        )
    return RetentionPrompts(
        settings=settings,
        texts=[text for text, _ in prompts],
        ids=[ids for _, ids in prompts],
        too_long=len(texts) - len(prompts),
    )


def check_retention(
    session: Session,
    store: RunStore,
    trainer: TrackTrainer,
    prompts: RetentionPrompts,
    result: Result,
    observer: Observer,
) -> None:
    """Compare the trained model with the base model under another prompt, and commit the figures.

    Both models answer all prompts greedily. The divergence is that of the trained model from the base model, at the
    tokens of the base model's answers, over the ``DEFAULT_TOP_K`` most likely tokens and all other tokens together.

    Raises:
        Stopped: if a stop was requested.
    """
    if distributed.from_rank_zero(lambda: store.committed_document(RETENTION_FOLDER, parent=result.digest)) is not None:
        return

    def answer(*, use_adapter: bool) -> list[str]:
        answers = answer_prompts(session, prompts.ids, use_adapter=use_adapter, name="retention", observer=observer)
        return [answer.text for answer in answers]

    before = answer(use_adapter=False)
    trainer.load(str(result.stage))
    after = answer(use_adapter=True)
    rows = [row for row in encode_where_possible(session.encoder, prompts.texts, before) if row is not None]
    divergence = _divergence(session, trainer, rows, str(result.stage))
    facts = RetentionFacts(
        prompts=len(prompts.texts),
        changed=sum(a != b for a, b in zip(before, after, strict=True)),
        too_long=prompts.too_long,
        tokens=sum(len(row.answer_ids) for row in rows),
        divergence=divergence,
        max_divergence=prompts.settings.max_divergence,
        max_changed=prompts.settings.max_changed,
        neutral=prompts.settings.data is None,
    )
    distributed.from_rank_zero(
        lambda: store.commit_document(
            RETENTION_FOLDER, facts.model_dump(mode="json", by_alias=True), term=trainer.term, parent=result.digest
        )
    )
    if distributed.rank() == 0:
        observer.emit(
            Note(
                text=f"retention: {facts.changed} of {facts.prompts} answers under another prompt changed, and the "
                f"divergence from the base model is {facts.divergence:.3g} nats per token"
                + (f"; {facts.too_long} prompts are too long for the model and are left out" if facts.too_long else ""),
                warning=not facts.passed,
            )
        )


def _divergence(session: Session, trainer: TrackTrainer, rows: Sequence[Encoded], stage: str) -> float:
    """Return the mean divergence of the model of ``stage`` from the base model at the answer tokens of ``rows``.

    Raises:
        RunFailed: if the device has too little memory, or if a probability is not a finite number.
    """
    if not rows:
        return 0.0
    trainer.load(None)
    own = [rows[i] for i in distributed.own_share(len(rows))]
    top_k = default_top_k(session.adapter.model.get_base_model().config)
    try:
        before = score_rows(session, own, top_k)
        trainer.load(stage)
        divergence = divergence_of_rows(
            session, [with_divergence(row, scores) for row, scores in zip(own, before, strict=True)]
        )
    except torch.OutOfMemoryError:
        raise RunFailed(
            f"{session.device} has too little memory for the prompts of evaluation.retention; lower "
            "training.tokensPerPack or shorten the prompts"
        ) from None
    mean: float = sum(distributed.gather_objects(divergence)) / sum(len(row.answer_ids) for row in rows)
    if not math.isfinite(mean):
        raise RunFailed("the probabilities of the trained model under another prompt are not finite numbers")
    return mean
