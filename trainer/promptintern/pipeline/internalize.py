"""A whole run on one worker: reference arms, stages with their gate, the adapter, Direct, latencies."""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from promptintern_api.evaluation import Arm, Metric, OnGateFail
from promptintern_api.training import LearningRatePolicy

from promptintern.engine import distributed
from promptintern.engine.checkpoint import Trajectory
from promptintern.engine.packing.planning import StepPlan, check_lengths
from promptintern.evaluate.metrics import bleu, exact_match
from promptintern.pipeline.adapter_artifact import commit_adapter
from promptintern.pipeline.events import Note, Observer, Scored, StageDone, Stopped
from promptintern.pipeline.held_out import answer_all
from promptintern.pipeline.inputs import length_of
from promptintern.pipeline.latency import Result, measure_latency
from promptintern.pipeline.session import Session
from promptintern.pipeline.throughput import speed_facts
from promptintern.pipeline.tracks import Track, course_of, direct_track, plan_track, tracks_of, why_slower
from promptintern.pipeline.training import TrackTrainer
from promptintern.prompt.encode import Encoded
from promptintern.report.facts import KEPT_STAGE
from promptintern.storage.manifest import Manifest
from promptintern.storage.run import RunStore


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the stages ended."""

    kept: int | None
    """The stage whose adapter is the result; None if none passed the gate."""
    stopped_at: int | None
    """The stage that failed a gate with onFail Stop."""
    result: str | None = None
    """Digest of the kept stage's manifest."""
    arms: dict[str, str | None] = field(default_factory=dict)
    """The arms that answered, with the digest of the manifest whose adapter did; None for base weights."""


def evaluation_folder(arm: str) -> str:
    """Where an arm's answers are."""
    return f"evaluation/{arm}"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A track's rows and steps."""

    rows: list[Encoded]
    steps: list[StepPlan]


def internalize(session: Session, store: RunStore, trainer: TrackTrainer, observer: Observer) -> Outcome:
    """Everything between loading and the report; what storage holds already is not done again.

    Raises:
        Stopped: after saving, if a stop was asked for.
        RunFailed: if the device, the storage or a newer incarnation ends the run.
    """
    if distributed.rank() == 0:
        for note in session.notes:
            observer.emit(Note(text=note))
        for warning in session.warnings:
            observer.emit(Note(text=warning, warning=True))
    wanted = set(session.job.spec.evaluation.arms)
    query_only = session.encode_held_out(session.templates[-1], 0)
    full = session.encode_held_out(session.full_template, session.examples.shots)
    run = _Run(session=session, store=store, trainer=trainer, observer=observer)

    arms: dict[str, str | None] = {Arm.FULL_PROMPT: None}
    full_answers = run.evaluate(Arm.FULL_PROMPT, full, by=None)
    if Arm.BASE in wanted:
        arms[Arm.BASE] = None
        run.evaluate(Arm.BASE, query_only, by=None)
    outcome = run.stages(full_answers)
    result = _result(session, outcome, query_only)
    if result is not None:
        arms[result.arm] = result.digest
        trainer.load(str(result.stage))
        run.evaluate(result.arm, result.prompts, by=result.digest)
        if distributed.rank() == 0:
            commit_adapter(session, store, stage=result.stage, epoch=trainer.epoch)
        distributed.barrier()
    if Arm.DIRECT in wanted:
        arms[Arm.DIRECT] = run.direct(query_only)
    measure_latency(session, store, trainer, result, full=full, observer=observer)
    return replace(outcome, arms=arms)


def _result(session: Session, outcome: Outcome, query_only: list[list[int]]) -> Result | None:
    """What the run brought forth: the last stage, or the last one that passed the gate; None if none did."""
    if outcome.kept is None or outcome.result is None:
        return None
    stage, digest = session.stages[outcome.kept], outcome.result
    if stage is session.stages[-1]:
        return Result(stage=stage.index, digest=digest, arm=Arm.QUERY_ONLY, prompts=query_only)
    prompts = session.encode_held_out(session.templates[stage.index], stage.shots)
    return Result(stage=stage.index, digest=digest, arm=KEPT_STAGE, prompts=prompts)


@dataclass(frozen=True, kw_only=True)
class _Run:
    session: Session
    store: RunStore
    trainer: TrackTrainer
    observer: Observer

    def evaluate(self, arm: str, prompts: Sequence[Sequence[int]], *, by: str | None) -> list[str]:
        """Answer all held-out queries as ``arm``, commit the answers, and return them.

        Args:
            by: Digest of the manifest whose adapter is loaded; None answers with the base weights.
        """
        folder = evaluation_folder(arm)
        document = distributed.from_rank_zero(lambda: self.store.committed_document(folder, parent=by))
        if document is None:
            answers = answer_all(
                self.session, prompts, adapter=by is not None, name=f"arm {arm}", observer=self.observer
            )
            document = {
                "arm": arm,
                "predictions": [answer.text for answer in answers],
                "answerTokens": [answer.tokens for answer in answers],
                "promptTokens": [len(prompt) for prompt in prompts],
            }
            fresh, epoch = document, self.trainer.epoch
            document = distributed.from_rank_zero(
                lambda: self.store.commit_document(folder, fresh, epoch=epoch, parent=by)
            )
        predictions: list[str] = document["predictions"]
        metric, score = self._score(predictions)
        if distributed.rank() == 0:
            self.observer.emit(Scored(name=f"arm {arm}", metric=metric, score=score))
        return predictions

    def stages(self, full_answers: Sequence[str]) -> Outcome:
        """Train, evaluate and commit every stage in order, until one fails a gate that stops.

        Args:
            full_answers: Of the arm FullPrompt, which the gate compares with.
        """
        tracks = tracks_of(self.session)
        kept: int | None = None
        result: str | None = None
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare") as ahead:
            prepared: dict[int, Future[Prepared]] = {}
            counts = self._step_counts(tracks)
            for number, track in enumerate(tracks):
                manifest = self._committed(track.key)
                if manifest is None:
                    ready = (
                        prepared.pop(number) if number in prepared else ahead.submit(self._prepare, track)
                    ).result()
                    if number + 1 < len(tracks):
                        # The next stage's prompts are rendered and tokenized while this one trains.
                        prepared[number + 1] = ahead.submit(self._prepare, tracks[number + 1])
                    manifest = self._train_stage(track, ready, counts, full_answers)
                if distributed.rank() == 0:
                    self.observer.emit(_done(track, manifest.meta))
                passed = manifest.meta["gate"] != "failed"
                if not passed and self.session.job.spec.evaluation.gate.on_fail is OnGateFail.STOP:
                    if distributed.rank() == 0:
                        self.observer.emit(Note(text=_gate_text(track, manifest.meta, kept), warning=True))
                    return Outcome(kept=kept, stopped_at=number, result=result)
                kept, result = number, manifest.digest()
        return Outcome(kept=kept, stopped_at=None, result=result)

    def direct(self, prompts: Sequence[Sequence[int]]) -> str:
        """Train the Direct arm with the stages' budget and answer as it; returns its manifest's digest."""
        manifests = [m for s in self.session.stages if (m := self._committed(str(s.index))) is not None]
        rows = self.session.encode_training(self.session.templates[-1], 0)
        track = direct_track(
            self.session,
            stage_tokens=[int(m.meta["trainingTokens"]) for m in manifests],  # type: ignore[arg-type]
            direct_tokens_per_epoch=sum(len(r.prompt_ids) + len(r.answer_ids) for r in rows),
        )
        manifest = self._committed(track.key)
        if manifest is None:
            steps = plan_track(self.session, track, rows, world_size=distributed.world_size())
            course = course_of(self.session, track, len(steps), before=0, after=0)
            trajectory = self.trainer.train(track, rows=rows, steps=steps, course=course)
            manifest = self.trainer.commit(track, trajectory, self._meta(track, rows, trajectory) | {"gate": "none"})
        else:
            self.trainer.load(track.key)
        self.evaluate(Arm.DIRECT, prompts, by=manifest.digest())
        return manifest.digest()

    def _committed(self, key: str) -> Manifest | None:
        return distributed.from_rank_zero(lambda: self.store.stage_manifest(key))

    def _prepare(self, track: Track) -> Prepared:
        rows = self.session.encode_training(self.session.templates[track.template], track.shots)
        check_lengths(
            [length_of(row) for row in rows],
            max_tokens=self.session.max_tokens,
            wheres=[row.where for row in self.session.data.train],
        )
        return Prepared(rows=rows, steps=plan_track(self.session, track, rows, world_size=distributed.world_size()))

    def _step_counts(self, tracks: Sequence[Track]) -> list[int]:
        """Steps of every stage, where one learning rate course runs over all of them."""
        if self.session.job.spec.training.between_stages.learning_rate is LearningRatePolicy.RESTART:
            return [0] * len(tracks)
        return [len(self._prepare(track).steps) for track in tracks]

    def _train_stage(
        self, track: Track, ready: Prepared, counts: Sequence[int], full_answers: Sequence[str]
    ) -> Manifest:
        number = track.template
        course = course_of(
            self.session,
            track,
            len(ready.steps),
            before=sum(counts[:number]),
            after=sum(counts[number + 1 :]),
        )
        trajectory = self.trainer.train(track, rows=ready.rows, steps=ready.steps, course=course)
        try:
            meta = self._meta(track, ready.rows, trajectory) | self._judge(track, full_answers)
        except Stopped:
            self.trainer.save(track, trajectory)
            raise
        manifest = self.trainer.commit(track, trajectory, meta)
        if distributed.rank() == 0:
            self.observer.emit(Scored(name=track.name, metric=str(meta["metric"]), score=meta["score"]))
        return manifest

    def _judge(self, track: Track, full_answers: Sequence[str]) -> dict[str, Any]:
        """The stage's score on its own prompt over the first held-out rows, against FullPrompt on the same rows."""
        evaluation = self.session.job.spec.evaluation
        count = min(evaluation.stage_rows, len(self.session.data.eval))
        prompts = self.session.encode_held_out(self.session.templates[track.template], track.shots)[:count]
        answers = answer_all(self.session, prompts, adapter=True, name=track.name, observer=self.observer)
        texts = [answer.text for answer in answers]
        metric, score = self._score(texts)
        _, full_score = self._score(full_answers[:count])
        scale = 100 if metric == Metric.BLEU else 1
        drop = (full_score - score) / scale
        return {
            "metric": metric,
            "score": score,
            "fullPromptScore": full_score,
            "scoredRows": count,
            # The tolerance is for sums of floats, far below one row's worth.
            "gate": "failed" if drop > evaluation.gate.max_drop + 1e-9 else "passed",
        }

    def _meta(self, track: Track, rows: Sequence[Encoded], trajectory: Trajectory) -> dict[str, Any]:
        template = self.session.templates[track.template]
        lengths = np.array([len(row.prompt_ids) for row in rows])
        return {
            "track": track.name,
            "rateAsked": template.rate_asked,
            "rateAchieved": template.rate_achieved,
            "shots": track.shots,
            "epochs": track.epochs,
            "steps": trajectory.steps,
            "rows": len(rows),
            "promptTokensMean": float(lengths.mean()),
            "promptTokensP95": float(np.percentile(lengths, 95)),
            "trainingTokens": trajectory.totals.tokens,
            "lossFirst": trajectory.loss[0],
            "lossLast": trajectory.loss[-1],
            "seconds": round(trajectory.seconds, 3),
            "speed": facts.model_dump(by_alias=True)
            if (facts := speed_facts(self.trainer.speed(trajectory)))
            else None,
            "slower": why_slower(self.session, rows) or None,
            "startedAt": self.trainer.started_at,
            "finishedAt": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _score(self, predictions: Sequence[str]) -> tuple[str, float]:
        """The first metric of the job over the first ``len(predictions)`` held-out rows."""
        metric = self.session.job.spec.evaluation.metrics[0]
        accepted = [row.answers for row in self.session.data.eval[: len(predictions)]]
        if metric is Metric.BLEU:
            return str(metric), bleu(predictions, accepted).score
        return str(metric), math.fsum(exact_match(predictions, accepted)) / len(predictions)


def _done(track: Track, meta: dict[str, Any]) -> StageDone:
    return StageDone(
        stage=track.template,
        rate=meta["rateAchieved"],
        shots=meta["shots"],
        prompt_tokens=meta["promptTokensMean"],
        loss=meta["lossLast"],
        score=meta["score"],
        started_at=meta.get("startedAt"),
        finished_at=meta.get("finishedAt"),
    )


def _gate_text(track: Track, meta: dict[str, Any], kept: int | None) -> str:
    result = (
        f"the adapter of stage {kept + 1} is kept" if kept is not None else "no stage passed, so there is no adapter"
    )
    return (
        f"{track.name} fell below the gate: {meta['metric']} {meta['score']:.4g} against {meta['fullPromptScore']:.4g} "
        f"with the full prompt on {meta['scoredRows']} rows; training stops and {result}"
    )
