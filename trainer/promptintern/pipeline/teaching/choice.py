"""Chooses the model that teaches a stage: the base model, or an earlier stage with its own prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

from promptintern_api.training import TeacherModel

from promptintern.compress import CompressedTemplate
from promptintern.pipeline.session import Session
from promptintern.pipeline.teaching.settings import teacher_of
from promptintern.stage_record import StageRecord


@dataclass(frozen=True, kw_only=True)
class TeachingModel:
    """A model that teaches, and the prompt with which it does so."""

    name: str
    """Its name in storage."""
    label: str
    """Its name in the report."""
    title: str
    """Its name in messages."""
    stage: str | None
    """The key of the stage whose adapter teaches; None for the base model."""
    digest: str | None
    """The digest of the manifest that lists this adapter; None for the base model."""
    template: CompressedTemplate
    shots: int


def base_teacher(session: Session) -> TeachingModel:
    """Return the base model with the full prompt."""
    return TeachingModel(
        name="base",
        label="base model",
        title="teacher",
        stage=None,
        digest=None,
        template=session.full_template,
        shots=session.examples.shots,
    )


def teacher_of_stage(session: Session, earlier: Sequence[tuple[StageRecord, str]]) -> TeachingModel | None:
    """Return the model that teaches the next stage, or None if the stage learns only from training rows.

    Args:
        earlier: The record of each earlier stage, and the digest of its manifest.
    """
    teacher = teacher_of(session.job)
    if teacher is None:
        return None
    if teacher.model is TeacherModel.BASE:
        return base_teacher(session)
    if not earlier:
        return None if session.data.train else base_teacher(session)
    earlier = [stage for stage in earlier if stage[0].accepted is not False]
    record, digest = earlier[-1]
    if teacher.model is TeacherModel.BEST_STAGE:
        # Of stages with the same score, the last one is chosen, because it has the shortest prompt.
        record, digest = max(reversed(earlier), key=lambda stage: stage[0].score)
        if record.full_prompt_score > record.score:
            return base_teacher(session)
    return TeachingModel(
        name=f"stage-{record.index}",
        label=f"stage {record.index + 1}",
        title=f"teacher (stage {record.index + 1})",
        stage=str(record.index),
        digest=digest,
        template=session.templates[record.planned],
        shots=session.stages[record.planned].shots,
    )
