"""The work of a run on every worker: arms, stages and their gate, the adapter, and latency."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

from promptintern_api.evaluation import Arm, OnGateFail
from promptintern_api.training import LearningRatePolicy

from promptintern.engine import distributed
from promptintern.evaluate.scoring import is_within_drop
from promptintern.pipeline.adapter_artifact import commit_adapter
from promptintern.pipeline.evaluation.arms import Arms
from promptintern.pipeline.evaluation.coverage import find_unneeded_sentences
from promptintern.pipeline.evaluation.drawn_programs import count_passes
from promptintern.pipeline.evaluation.held_out import accepted_answers, answer_prompts
from promptintern.pipeline.evaluation.judging import HeldOutAnswers, judge
from promptintern.pipeline.evaluation.latency import Result, measure_latency
from promptintern.pipeline.evaluation.retention import check_retention, retention_prompts
from promptintern.pipeline.events import Note, Observer, Scored, StageDone, Stopped
from promptintern.pipeline.phases import Phase
from promptintern.pipeline.session import Session
from promptintern.pipeline.teaching.choice import TeachingModel
from promptintern.pipeline.teaching.lessons import Lessons
from promptintern.pipeline.teaching.settings import stages_teach, teacher_of, top_k_of
from promptintern.pipeline.teaching.stage_teachers import Earlier, StageTeachers
from promptintern.pipeline.teaching.teaching_pass import teach
from promptintern.pipeline.tracks import (
    PreparedTrack,
    Track,
    lr_span_of,
    next_track,
    plain_track,
    prepare_track,
    stage_tracks,
)
from promptintern.pipeline.training import TrackTrainer
from promptintern.prompt.encode import Encoded
from promptintern.report.facts import KEPT_STAGE
from promptintern.stage_record import StageRecord, TrackRecord
from promptintern.storage.manifest import Manifest
from promptintern.storage.run import RunStore


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of training the stages, and the adapters that the arms used."""

    records: Sequence[StageRecord] = ()
    """The records of all stages that were trained, in order."""
    kept: int | None
    """The index of the stage whose adapter is the result; None if no stage passed the gate."""
    stopped_at: int | None
    """The index of the stage that failed the gate with ``onFail: Stop``; None if no gate stopped the run."""
    kept_digest: str | None = None
    """The digest of the manifest of the stage whose adapter is the result; None if no stage passed the gate."""
    lessons: Lessons = field(default_factory=Lessons)
    """What the last trained stage learned from its teacher, with the cost of all teachers."""
    arm_parents: dict[str, str | None] = field(default_factory=dict)
    """The digest, by arm, of the manifest that lists the adapter of the arm; None if the arm used the base weights."""


def internalize(session: Session, store: RunStore, trainer: TrackTrainer, observer: Observer) -> Outcome:
    """Evaluate the arms, train the stages, and commit all results. Skip whatever storage already holds.

    Raises:
        UserError: if no prompt of the retention check fits, if the job asks for the probabilities of more tokens than
            there are, or if no query has an answer that can be learned and there are no training rows.
        Stopped: if a stop was requested; the state of the run is saved first.
        RunFailed: if the device or the storage fails, or a driver with a newer term has taken over.
    """
    retention = retention_prompts(session)
    if teacher := teacher_of(session.job):
        top_k_of(teacher, session.adapter.model.get_base_model().config)

    def taught_by(model: TeachingModel) -> Lessons:
        with session.clock.phase(Phase.TEACH):
            return teach(session, store, model, load=trainer.load, term=trainer.term, observer=observer)

    teachers = StageTeachers(session, taught_by)
    if not stages_teach(session.job):
        session = replace(session, lessons=teachers.lessons([]))
    trainer.load(None)
    clock = session.clock
    with clock.phase(Phase.EVALUATE):
        find_unneeded_sentences(session, store, term=trainer.term, observer=observer)
    arms = Arms(
        session=session, store=store, trainer=trainer, observer=observer, accepted=accepted_answers(session, None)
    )
    for note in session.notes:
        arms.emit(Note(text=note))
    for warning in session.warnings:
        arms.emit(Note(text=warning, warning=True))
    requested = set(session.job.spec.evaluation.arms)
    query_only = session.encode_held_out(session.templates[-1], 0)
    full = session.encode_held_out(session.full_template, session.examples.shots)

    arm_parents: dict[str, str | None] = {Arm.FULL_PROMPT: None}
    full_answers = arms.answer(Arm.FULL_PROMPT, full, parent=None)
    arms = replace(arms, accepted=accepted_answers(session, full_answers.texts))
    arm_parents |= dict.fromkeys(arms.answer_untrained(query_only))
    run = _Run(session=session, trainer=trainer, observer=observer, teachers=teachers, arms=arms)
    outcome = run.train_stages(full_answers)
    result = _result(session, outcome, query_only)
    if result is not None:
        arm_parents[result.arm] = result.digest
        trainer.load(str(result.stage))
        arms.answer(result.arm, result.prompts, parent=result.digest)
        with clock.phase(Phase.SAVE):
            if distributed.rank() == 0:
                commit_adapter(session, store, stage=result.stage, term=trainer.term)
            distributed.barrier()
    if retention is not None and result is not None:
        with clock.phase(Phase.EVALUATE):
            check_retention(session, store, trainer, retention, result, observer)
    with clock.phase(Phase.EVALUATE):
        count_passes(session, store, trainer, result, full=full, accepted=arms.accepted, observer=observer)
    for arm, prompts in ((Arm.DIRECT, query_only), (Arm.FULL_PROMPT_TUNED, full)):
        if arm in requested and not session.data.train:
            text = f"there is no arm {arm}, because it learns only from written answers (data.train)"
            arms.emit(Note(text=text))
        elif arm in requested:
            arm_parents[arm] = run.train_plainly(arm, prompts, outcome.records)
    with clock.phase(Phase.MEASURE):
        measure_latency(session, store, trainer, result, full=full, observer=observer)
    return replace(outcome, arm_parents=arm_parents)


def _result(session: Session, outcome: Outcome, query_only: list[list[int]]) -> Result | None:
    """Return the run's result, which is the adapter of the kept stage, or None if no stage passed the gate."""
    if outcome.kept is None or outcome.kept_digest is None:
        return None
    record, digest = outcome.records[outcome.kept], outcome.kept_digest
    if record.planned == len(session.stages) - 1:
        return Result(stage=record.index, digest=digest, arm=Arm.QUERY_ONLY, prompts=query_only)
    prompts = session.encode_held_out(session.templates[record.planned], record.shots)
    return Result(stage=record.index, digest=digest, arm=KEPT_STAGE, prompts=prompts)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run in progress: the objects that all stages need, with methods for their training and evaluation."""

    session: Session
    trainer: TrackTrainer
    observer: Observer
    teachers: StageTeachers
    arms: Arms

    def train_stages(self, full_answers: HeldOutAnswers) -> Outcome:
        """Train, evaluate and commit every stage in order, until a stage fails the gate with ``onFail: Stop``.

        Args:
            full_answers: The answers of the FullPrompt arm. The gate compares the score of each stage with their score.
        """
        tracks = [] if self.session.job.spec.schedule.is_adaptive else stage_tracks(self.session)
        earlier: list[tuple[StageRecord, str]] = []
        stopped_at: int | None = None
        lessons = self.session.lessons
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare") as executor:
            pending: dict[int, Future[PreparedTrack]] = {}

            def prepare(number: int) -> Future[PreparedTrack]:
                if number not in pending:
                    pending[number] = executor.submit(self._prepare, tracks[number], lessons)
                return pending[number]

            steps = self._steps_by_stage(tracks, prepare)
            while (track := next_track(self.session, [record for record, _ in earlier])) is not None:
                number = len(earlier)
                if number == len(tracks):
                    tracks.append(track)
                manifest = self.arms.committed(track.key)
                if manifest is None:
                    lessons = self.session.lessons  # the lessons of an earlier teacher need not stay in memory
                    lessons = self.teachers.lessons(earlier)
                    with self.session.clock.phase(Phase.PREPARE):
                        prepared = prepare(number).result()
                    del pending[number]
                    if number + 1 < len(tracks) and lessons is self.session.lessons:
                        prepare(number + 1)  # renders and tokenizes the next stage's prompts while this one trains
                    manifest = self._train_stage(prepared, steps, full_answers, earlier)
                    del prepared
                record = self._stage_record(track.key, manifest)
                self.arms.emit(StageDone(record=record))
                if record.accepted is False:
                    self.arms.emit(Note(text=f"{record.name} dropped too far below the stage that it started from"))
                earlier.append((record, manifest.digest()))
                if record.gate == "failed" and self.session.job.spec.evaluation.gate.on_fail is OnGateFail.STOP:
                    stopped_at = number
                    break
        outcome = self._outcome(earlier, stopped_at, self.teachers.lessons(earlier[:-1]))
        if stopped_at is not None:
            self.arms.emit(Note(text=_gate_message(outcome.records[stopped_at], outcome.kept), warning=True))
        return outcome

    def _outcome(self, stages: Earlier, stopped_at: int | None, lessons: Lessons) -> Outcome:
        """Return the outcome of the trained ``stages``, whose adapter is the best one at the end of the schedule."""
        last = len(self.session.stages) - 1
        ends = [
            index
            for index, (record, _) in enumerate(stages)
            if index != stopped_at and (record.position is None or record.position == last)
        ]
        if self.session.job.spec.schedule.is_adaptive:  # it may have tried its last position several times
            ends.sort(key=lambda index: stages[index][0].score)
        kept = ends[-1] if ends else None
        return Outcome(
            records=[record for record, _ in stages],
            kept=kept,
            kept_digest=None if kept is None else stages[kept][1],
            stopped_at=stopped_at,
            lessons=lessons,
        )

    def train_plainly(self, arm: Arm, prompts: Sequence[Sequence[int]], stages: Sequence[StageRecord]) -> str:
        """Train ``arm`` in one stage with the budget of ``stages``, answer ``prompts``, and return its digest.

        Args:
            arm: Direct, which trains on the last stage's prompts, or FullPromptTuned, which keeps the full prompt.
            prompts: The prompts of all held-out rows, as token ids.
            stages: The records of all stages that were trained.
        """
        written = len(self.session.data.train)  # the rows that the teacher answered come last
        if arm is Arm.DIRECT:
            rows = self._last_rows[:written]
        else:
            rows = self.session.encode_training(self.session.full_template, self.session.examples.shots)[:written]
        track = plain_track(
            self.session,
            arm,
            rows,
            epochs=sum(record.epochs for record in stages),
            stage_tokens=[self._written_tokens(record) for record in stages],
        )
        return self.arms.train(track, prompts, rows=rows, arm=arm)

    def _written_tokens(self, record: StageRecord) -> int:
        """Return the stage's training tokens that belong to rows with written answers, if all rows are equally long."""
        return round(record.training_tokens * len(self.session.data.train) / record.rows)

    @cached_property
    def _last_rows(self) -> list[Encoded]:
        """The encoded training rows of the last stage, whose prompts have no examples. Direct trains on them, too."""
        return self.session.encode_training(self.session.templates[-1], 0)

    def _prepare(self, stage: Track, lessons: Lessons) -> PreparedTrack:
        is_last = stage.planned == len(self.session.templates) - 1 and lessons is self.session.lessons
        return prepare_track(replace(self.session, lessons=lessons), stage, self._last_rows if is_last else None)

    def _stage_record(self, key: str, manifest: Manifest) -> StageRecord:
        return self.arms.store.record(key, manifest, StageRecord)

    def _steps_by_stage(self, tracks: Sequence[Track], prepare: Callable[[int], Future[PreparedTrack]]) -> list[int]:
        """Return the number of optimizer steps of each stage.

        All numbers are 0 if every stage restarts the learning-rate schedule, because they are not needed then.
        Otherwise all stages are prepared here, and a stage's encoded rows stay in memory until the stage is trained.
        """
        if self.session.job.spec.training.between_stages.learning_rate is LearningRatePolicy.RESTART:
            return [0] * len(tracks)
        manifests = [self.arms.committed(track.key) for track in tracks]
        return [
            len(prepare(number).result().steps)
            if manifest is None
            else self._stage_record(tracks[number].key, manifest).steps
            for number, manifest in enumerate(manifests)
        ]

    def _train_stage(
        self,
        prepared: PreparedTrack,
        steps: Sequence[int],
        full_answers: HeldOutAnswers,
        earlier: Earlier,
    ) -> Manifest:
        track = prepared.track
        number = track.planned
        lr_span = lr_span_of(
            self.session, track, len(prepared.steps), before=sum(steps[:number]), after=sum(steps[number + 1 :])
        )
        trajectory = self.trainer.train(prepared, lr_span)
        trained = self.trainer.record(prepared, trajectory)
        if self.session.engine is not None:  # a process that is not ours may fail, or take the memory of this one
            self.trainer.save(track, trajectory)
        try:
            with self.session.clock.phase(Phase.EVALUATE):
                record = self._evaluate_stage(track, trained, full_answers, earlier)
        except Stopped:
            self.trainer.save(track, trajectory)
            raise
        manifest = self.trainer.commit(track, trajectory, record)
        self.arms.emit(Scored(name=track.name, metric=record.metric, score=record.score))
        return manifest

    def _evaluate_stage(
        self,
        track: Track,
        trained: TrackRecord,
        full_answers: HeldOutAnswers,
        earlier: Earlier,
    ) -> StageRecord:
        """Return the record of a trained stage.

        It includes the scores of the stage and of FullPrompt on the first ``stageRows`` held-out rows."""
        evaluation = self.session.job.spec.evaluation
        count = min(evaluation.stage_rows, len(self.session.data.eval))
        prompts = self.session.encode_held_out(self.session.templates[track.planned], track.shots, limit=count)
        answers = answer_prompts(self.session, prompts, use_adapter=True, name=track.name, observer=self.observer)
        texts = [answer.text for answer in answers]
        score = self.arms.score(judge(self.session, texts, [self.arms.metric], self.arms.accepted))
        full_score = self.arms.score(full_answers.first(count))
        is_adaptive = self.session.job.spec.schedule.is_adaptive
        start = earlier[int(track.parent)][0] if track.parent is not None else None
        accepted = start is None or self._is_within_gate(score, start.score) or track.planned - start.planned == 1
        return StageRecord(
            **dict(trained),
            index=len(earlier),
            position=track.planned if is_adaptive else None,
            accepted=accepted if is_adaptive else None,
            teacher=self.teachers.label(earlier),
            metric=self.arms.metric,
            score=score,
            full_prompt_score=full_score,
            scored_rows=count,
            gate="passed" if self._is_within_gate(score, full_score) else "failed",
        )

    def _is_within_gate(self, score: float, reference: float) -> bool:
        """Return whether ``score`` is at most ``gate.maxDrop`` below ``reference``."""
        return is_within_drop(self.arms.metric, score, reference, self.session.job.spec.evaluation.gate.max_drop)


def _gate_message(record: StageRecord, kept: int | None) -> str:
    result = (
        f"the adapter of stage {kept + 1} is kept" if kept is not None else "no stage passed, so there is no adapter"
    )
    return (
        f"{record.name} fell below the gate: {record.metric} {record.score:.4g} against "
        f"{record.full_prompt_score:.4g} with the full prompt on {record.scored_rows} rows; training stops and {result}"
    )
