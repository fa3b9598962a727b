"""Estimates, in minutes and before anything is trained, whether it is worth trying to internalize a prompt."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from promptintern_api import PromptInternJob
from promptintern_api.evaluation import Arm

from promptintern.answering.prefix import shared_tokens
from promptintern.engine.checkpoint import Trajectory, new_optimizer
from promptintern.engine.train import TrackTask, train_track
from promptintern.pipeline.evaluation.held_out import accepted_answers, answer_prompts
from promptintern.pipeline.evaluation.judging import HeldOutAnswers, judge, with_accepted
from promptintern.pipeline.events import Note, Observer
from promptintern.pipeline.inputs import load_data
from promptintern.pipeline.session import Session, open_session
from promptintern.pipeline.tracks import PreparedTrack, lr_span_of, prepare_track, stage_tracks
from promptintern.prompt.coverage import uncovered_entries
from promptintern.report.costs import cost_per_thousand, mean_of, pays_from
from promptintern.report.estimate import Estimate, compare_arms
from promptintern.report.facts import ArmFacts, PriceFacts

SAMPLED_ROWS = 50
"""The number of held-out rows, from the start of the file, that are answered."""
_TIMED_STEPS = 3
"""The number of steps of each stage that are timed; the first one is left out if there are others."""


@dataclass(frozen=True, kw_only=True)
class _Sampled:
    """The answers of an arm to the sampled rows."""

    answers: HeldOutAnswers
    facts: ArmFacts
    seconds: float


def estimate(job: PromptInternJob, *, observer: Observer) -> Estimate:
    """Answer some held-out rows with and without the prompt, time some steps, and return what this tells.

    Raises:
        UserError: if anything is wrong with the job, its data or its model.
        RunFailed: if the device has too little memory.
        Stopped: if a stop was requested.
    """
    data = load_data(job)
    held_out = len(data.eval)
    session = open_session(job, replace(data, eval=data.eval[:SAMPLED_ROWS]))
    rows, evaluation = len(session.data.eval), job.spec.evaluation
    full_prompts = session.encode_held_out(session.full_template, session.examples.shots)
    full = _answer(session, Arm.FULL_PROMPT, full_prompts, observer)
    accepted, metric = accepted_answers(session, full.answers.texts), evaluation.metrics[0]
    query_only = session.encode_held_out(session.templates[-1], 0)
    base = _answer(session, Arm.BASE, query_only, observer, accepted)
    prompt = compare_arms(
        metric,
        with_accepted(evaluation, full.answers, accepted),
        with_accepted(evaluation, base.answers, accepted),
        [row.query for row in session.data.eval],
    )
    training = sum(_training_seconds(session, observer)) if session.data.train else None
    prices = PriceFacts(**evaluation.prices.model_dump()) if evaluation.prices else None
    payback = _payback(prices, training, full.facts, base.facts)
    return Estimate(
        metric=metric,
        rows=rows,
        prompt=prompt,
        max_drop=evaluation.gate.max_drop,
        tokens_before=mean_of(full.facts.prompt_tokens),
        tokens_after=mean_of(base.facts.prompt_tokens),
        kept_tokens=full.facts.shared_tokens,
        uncovered=uncovered_entries(job.spec.prompt.template, _training_texts(session)),
        training_seconds=training,
        # Half of the arms have the full prompt, and half the query alone.
        answer_seconds=(full.seconds + base.seconds) / (2 * rows) * held_out * len(evaluation.arms),
        has_prices=payback is not None,
        pays_from=payback[0] if payback else None,
        pays_from_if_kept=payback[1] if payback else None,
    )


def _answer(
    session: Session,
    arm: Arm,
    prompts: Sequence[Sequence[int]],
    observer: Observer,
    accepted: Sequence[Sequence[str]] | None = None,
) -> _Sampled:
    """Answer the held-out rows with the base weights; without ``accepted`` answers, those of FullPrompt are judged."""
    began = time.monotonic() - session.engine_start_seconds
    answers = answer_prompts(session, prompts, use_adapter=False, name=f"arm {arm}", observer=observer)
    seconds = time.monotonic() - session.engine_start_seconds - began
    texts = [answer.text for answer in answers]
    accepted = accepted_answers(session, texts) if accepted is None else accepted
    judged = judge(session, texts, session.job.spec.evaluation.metrics[:1], accepted)
    facts = ArmFacts(
        name=arm,
        predictions=texts,
        prompt_tokens=[len(prompt) for prompt in prompts],
        answer_tokens=[answer.tokens for answer in answers],
        shared_tokens=shared_tokens(prompts),
    )
    return _Sampled(answers=judged, facts=facts, seconds=seconds)


def _training_seconds(session: Session, observer: Observer) -> Iterator[float]:
    """Yield the estimated time of each stage, from some of its steps."""
    for track in stage_tracks(session):
        observer.emit(Note(text=f"timing steps of {track.name}"))
        prepared = prepare_track(session, track)
        computed, seconds = _timed_steps(session, prepared)
        yield sum(step.computed for step in prepared.steps) * seconds / computed


def _timed_steps(session: Session, prepared: PreparedTrack) -> tuple[int, float]:
    """Train some steps, and return the number of tokens that they computed and the seconds that they took."""
    session.free_device()
    training, track = session.job.spec.training, prepared.track
    trajectory, ends = Trajectory(), list[float]()
    steps = prepared.steps[:_TIMED_STEPS]
    train_track(
        session.adapter,
        new_optimizer(session.adapter, weight_decay=training.weight_decay),
        TrackTask(
            name=track.name,
            seed=track.seed,
            rows=prepared.rows,
            steps=steps,
            layout=prepared.layout,
            lr_span=lr_span_of(session, track, len(prepared.steps), before=0, after=0),
        ),
        training=training,
        trajectory=trajectory,
        device=session.device,
        stop_requested=lambda: False,
        after_step=lambda so_far: ends.append(so_far.seconds),
    )
    skipped = min(1, len(steps) - 1)  # the first step warms up
    return sum(trajectory.computed[skipped:]), ends[-1] - (ends[skipped - 1] if skipped else 0.0)


def _payback(
    prices: PriceFacts | None, training: float | None, full: ArmFacts, base: ArmFacts
) -> tuple[int | None, int | None] | None:
    """Return the numbers of queries from which training pays, without and with kept beginnings of prompts.

    Return None if the job has no price of a device, or the training time is not known.
    """
    if prices is None or prices.device_per_hour is None or training is None:
        return None
    cost = training / 3600 * prices.device_per_hour
    # The result is assumed to answer as long as FullPrompt does; Base often goes on until it is cut.
    result = base.model_copy(update={"answer_tokens": full.answer_tokens})
    without, kept = (
        pays_from(cost, *(cost_per_thousand(arm, prices, is_kept=is_kept) for arm in (full, result)))
        for is_kept in (False, True)
    )
    return without, kept


def _training_texts(session: Session) -> Iterator[str]:
    for row in session.data.train:
        yield from (row.query, row.answer)
    for query in session.data.queries:
        yield query.query
