"""The tracks of a run: one for each stage, and one for each arm that is trained, Direct and FullPromptTuned."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from promptintern_api.evaluation import Arm, DirectBudget
from promptintern_api.training import LearningRatePolicy

from promptintern.compress import CompressedTemplate
from promptintern.engine import distributed
from promptintern.engine.attention.backends import min_node_savings_on, min_prefix_savings_on
from promptintern.engine.attention.prefix_tree import Prefixes
from promptintern.engine.lanes import lane_count
from promptintern.engine.packing.layout import PackLayout
from promptintern.engine.packing.planning import StepPlan, check_lengths, plan_steps
from promptintern.engine.train import LrSpan
from promptintern.pipeline.inputs import length_of
from promptintern.pipeline.session import Session, tokens_per_pack
from promptintern.prompt.encode import Encoded
from promptintern.schedule import Attempt, last_accepted, next_position
from promptintern.stage_record import StageRecord, TrackPlan

DIRECT, TUNED = "direct", "tuned"
"""The keys of the tracks of the arms Direct and FullPromptTuned."""
_DIRECT_SEED, _TUNED_SEED = 1_000_003, 1_000_004
"""The numbers in the seeds of Direct and FullPromptTuned that stand in place of a stage's index (0, 1, ...)."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """A stage, Direct or FullPromptTuned, which is trained from its first optimizer step to its commit."""

    key: str
    """The name of the track in storage: the index of the stage, ``direct`` or ``tuned``."""
    name: str
    """The name of the track in messages, such as ``stage 2/4``."""
    parent: str | None
    """The key of the track whose adapter this track starts from; None for a new adapter."""
    template: int | None
    """The index of the track's template in the session's templates; None for the full template."""
    stage: int | None
    """The index of the stage, from 0; None for Direct and FullPromptTuned."""
    shots: int
    epochs: int
    seed: tuple[int, ...]

    @property
    def planned(self) -> int:
        """The index of the track's rate, shots and template among those of the schedule. FullPromptTuned has none."""
        assert self.template is not None, f"{self.name} has the full template"
        return self.template


@dataclass(frozen=True, kw_only=True)
class PreparedTrack:
    """A track whose rows are encoded and whose steps are planned."""

    track: Track
    plan: TrackPlan
    rows: Sequence[Encoded]
    steps: Sequence[StepPlan]
    layout: PackLayout
    slow_reason: str | None
    """The reason why ``layout`` is not the model's fastest pack layout; None if it is the fastest."""


def stage_tracks(session: Session) -> list[Track]:
    """Return the tracks of all stages of a schedule that is not adaptive, in order."""
    return [
        _stage_track(session, stage.index, planned=stage.index, parent=stage.index - 1, of=f"{len(session.stages)}")
        for stage in session.stages
    ]


def next_track(session: Session, records: Sequence[StageRecord]) -> Track | None:
    """Return the track of the stage that follows the stages with these records, or None if no stage follows."""
    index, schedule = len(records), session.job.spec.schedule
    if not schedule.is_adaptive:
        return stage_tracks(session)[index] if index < len(session.stages) else None
    attempts = attempts_of(records)
    position = next_position(attempts, positions=len(session.stages), max_stages=schedule.num_stages)
    if position is None:
        return None
    return _stage_track(
        session,
        index,
        planned=position,
        parent=last_accepted(attempts) if records else -1,
        of=f"at most {schedule.num_stages}",
    )


def attempts_of(records: Sequence[StageRecord]) -> list[Attempt]:
    """Return what an adaptive schedule reads of the stages that were trained."""
    return [Attempt(position=record.planned, accepted=record.accepted is not False) for record in records]


def _stage_track(session: Session, index: int, *, planned: int, parent: int, of: str) -> Track:
    """Return the track of a stage.

    Args:
        index: The number of stages before it.
        planned: The index of its rate, shots and template in the session's ``stages``.
        parent: The index of the stage whose adapter it starts from; negative for a new adapter.
        of: The number of stages, for messages.
    """
    stage = session.stages[planned]
    return Track(
        key=str(index),
        name=f"stage {index + 1}/{of}" if of.isdecimal() else f"stage {index + 1} of {of}",
        parent=str(parent) if parent >= 0 else None,
        template=planned,
        stage=index,
        shots=stage.shots,
        epochs=stage.epochs,
        seed=(session.job.spec.training.seed, index),
    )


def plain_track(
    session: Session, arm: Arm, rows: Sequence[Encoded], *, epochs: int, stage_tokens: Sequence[int]
) -> Track:
    """Return the track of Direct or FullPromptTuned: plain fine-tuning on one prompt with the budget of all stages.

    Args:
        arm: Direct has the last stage's prompts. FullPromptTuned has the full template and all examples.
        rows: The encoded prompts and answers.
        epochs: The number of epochs of all stages that were trained.
        stage_tokens: The number of training tokens, over all epochs, of each stage that was trained. A gate may
            have stopped the run before the last stage.
    """
    if session.job.spec.evaluation.direct_budget is DirectBudget.TOKENS:
        epochs = max(1, round(sum(stage_tokens) / sum(length_of(row).total for row in rows)))
    is_direct = arm is Arm.DIRECT
    return Track(
        key=DIRECT if is_direct else TUNED,
        name=f"arm {arm}",
        parent=None,
        template=len(session.stages) - 1 if is_direct else None,
        stage=None,
        shots=0 if is_direct else session.examples.shots,
        epochs=epochs,
        seed=(session.job.spec.training.seed, _DIRECT_SEED if is_direct else _TUNED_SEED),
    )


def prepare_track(session: Session, track: Track, rows: Sequence[Encoded] | None = None) -> PreparedTrack:
    """Encode the rows of ``track`` and plan its steps.

    Args:
        rows: The encoded rows, or None to encode the rows here.

    Raises:
        UserError: if a row is longer than the session's ``max_tokens``, or has no answer tokens.
    """
    template = session.full_template if track.template is None else session.templates[track.template]
    if rows is None:
        rows = session.encode_training(template, track.shots)
    check_lengths(
        [length_of(row) for row in rows],
        max_tokens=session.max_tokens,
        wheres=[row.where for row in session.training_queries[: len(rows)]],
    )
    layout = layout_of(session, rows)
    return PreparedTrack(
        track=track,
        plan=describe_track(template, shots=track.shots, epochs=track.epochs, rows=rows),
        rows=rows,
        steps=plan_track(session, track, rows, layout=layout, world_size=distributed.world_size()),
        layout=layout,
        slow_reason=slow_reason(session, rows),
    )


def describe_track(template: CompressedTemplate, *, shots: int, epochs: int, rows: Sequence[Encoded]) -> TrackPlan:
    """Return the figures of a track that are known before training. ``rows`` are its encoded training rows."""
    prompts = np.array([len(row.prompt_ids) for row in rows])
    return TrackPlan(
        requested_rate=template.requested_rate,
        achieved_rate=template.achieved_rate,
        shots=shots,
        epochs=epochs,
        rows=len(rows),
        prompt_tokens_mean=float(prompts.mean()),
        prompt_tokens_p95=float(np.percentile(prompts, 95)),
        training_tokens=epochs * sum(length_of(row).total for row in rows),
    )


def layout_of(session: Session, rows: Sequence[Encoded]) -> PackLayout:
    """Return the pack layout in which a track with these rows is computed."""
    return session.layouts.for_rows(_longest(rows))


def slow_reason(session: Session, rows: Sequence[Encoded]) -> str | None:
    """Return a sentence that says why ``rows`` cannot use the model's fastest pack layout, or None if they can."""
    return session.layouts.slow_reason(_longest(rows)) or None


def slow_rows(session: Session, rows: Sequence[Encoded]) -> int:
    """Return the number of rows that are too long for the model's fastest pack layout."""
    layouts = session.layouts
    return sum(layouts.for_rows(length_of(row).total) is not layouts.best for row in rows)


def _longest(rows: Sequence[Encoded]) -> int:
    return max(length_of(row).total for row in rows)


def plan_track(
    session: Session, track: Track, rows: Sequence[Encoded], *, layout: PackLayout, world_size: int
) -> list[StepPlan]:
    """Return the plan of each optimizer step of ``track``, whose encoded rows are ``rows``."""
    training = session.job.spec.training
    return plan_rows(
        session,
        rows,
        layout=layout,
        seed=track.seed,
        epochs=track.epochs,
        tokens_per_batch=training.tokens_per_batch,
        rows_per_batch=training.rows_per_batch,
        world_size=world_size,
        threads=session.threads,
    )


def plan_rows(
    session: Session,
    rows: Sequence[Encoded],
    *,
    layout: PackLayout,
    seed: Sequence[int],
    epochs: int,
    tokens_per_batch: int,
    rows_per_batch: int | None,
    world_size: int,
    threads: int,
) -> list[StepPlan]:
    """Return the plan of each step of ``rows``, with as much sharing of prefixes as ``layout`` allows.

    ``threads`` is the number of threads of a worker that may compute packs concurrently; ``plan_steps`` describes the
    other arguments.
    """
    tokens = tokens_per_pack(session.job, session.layouts, layout, session.device)
    may_share = layout is PackLayout.PREFIX_TREE and _may_have_shared_prefix(session, rows)
    return plan_steps(
        [length_of(row) for row in rows],
        seed=seed,
        epochs=epochs,
        tokens_per_batch=tokens_per_batch,
        rows_per_batch=rows_per_batch,
        tokens_per_pack=tokens,
        pack=layout.is_packed,
        world_size=world_size,
        # Lanes make packs smaller. Without a shared prefix, each pack would recompute the common beginning of the rows.
        lanes=lane_count(threads, tokens_per_pack=tokens) if may_share else 1,
        prefixes=Prefixes([row.prompt_ids for row in rows]) if layout is PackLayout.PREFIX_TREE else None,
        min_node_savings=min_node_savings_on(session.device),
        min_prefix_savings=min_prefix_savings_on(session.device) if may_share else None,
    )


def _may_have_shared_prefix(session: Session, rows: Sequence[Encoded]) -> bool:
    """Return whether the tokens that all rows of a step begin with may be computed once, as a shared prefix.

    A shared prefix is impossible with gradient checkpointing, or if a row is longer than ``max_pack_tokens``. With such
    a row, the result depends on the index of each token in its pack, and a shared prefix changes this index.
    """
    limit = session.layouts.max_pack_tokens
    return not session.job.spec.training.gradient_checkpointing and (limit is None or _longest(rows) <= limit)


def lr_span_of(session: Session, track: Track, steps: int, *, before: int, after: int) -> LrSpan:
    """Return the position of a track's optimizer steps within the learning-rate schedule.

    Args:
        steps: The number of steps of this track.
        before: The number of steps of all stages before this track.
        after: The number of steps of all stages after this track.
    """
    policy = session.job.spec.training.between_stages.learning_rate
    if track.stage is None or policy is LearningRatePolicy.RESTART:
        return LrSpan(first=0, total=steps)
    return LrSpan(first=before, total=before + steps + after)
