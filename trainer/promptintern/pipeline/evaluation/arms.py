"""The arms of a run: each answers all held-out rows, some of them after a training of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

from promptintern_api.evaluation import Arm
from promptintern_api.metrics import Metric

from promptintern.answering.prefix import shared_tokens
from promptintern.engine import distributed
from promptintern.pipeline.evaluation.held_out import accepted_answers, answer_prompts, evaluation_folder
from promptintern.pipeline.evaluation.judging import HeldOutAnswers, judge, score_held_out
from promptintern.pipeline.events import Note, Observer, Scored, StageDone
from promptintern.pipeline.phases import Phase
from promptintern.pipeline.session import Session
from promptintern.pipeline.tracks import Track, lr_span_of, prepare_track
from promptintern.pipeline.training import TrackTrainer
from promptintern.prompt.encode import Encoded
from promptintern.report.facts import compressed_arm
from promptintern.storage.manifest import Manifest
from promptintern.storage.run import RunStore


@dataclass(frozen=True, kw_only=True)
class Arms:
    """The arms of a run, with everything that they need to answer."""

    session: Session
    store: RunStore
    trainer: TrackTrainer
    observer: Observer
    accepted: Sequence[Sequence[str]]
    """The accepted answers to each held-out row; empty as long as they are not known."""

    @property
    def metric(self) -> Metric:
        """The job's first metric, by which the gate compares scores."""
        return self.session.job.spec.evaluation.metrics[0]

    def answer(self, arm: str, prompts: Sequence[Sequence[int]], *, parent: str | None) -> HeldOutAnswers:
        """Answer all held-out queries as ``arm``, run the programs in the answers if the job asks for it, and commit.

        Args:
            prompts: The prompts of all held-out rows, as token ids.
            parent: The digest of the manifest that lists the loaded adapter, or None to answer with the base weights.
        """
        folder = evaluation_folder(arm)
        document = distributed.from_rank_zero(lambda: self.store.committed_document(folder, parent=parent))
        if document is None:
            with self.session.clock.phase(Phase.EVALUATE):
                answers = answer_prompts(
                    self.session, prompts, use_adapter=parent is not None, name=f"arm {arm}", observer=self.observer
                )
                texts = [answer.text for answer in answers]
                accepted = self.accepted or accepted_answers(self.session, texts)  # this arm is FullPrompt
                judged = judge(self.session, texts, self.session.job.spec.evaluation.metrics, accepted)
            new = {
                "arm": arm,
                "predictions": texts,
                "verdicts": judged.verdicts,
                "numbers": judged.numbers,
                "fault": judged.fault,
                "answerTokens": [answer.tokens for answer in answers],
                "promptTokens": [len(prompt) for prompt in prompts],
                "sharedTokens": shared_tokens(prompts),
            }
            document = distributed.from_rank_zero(
                lambda: self.store.commit_document(folder, new, term=self.trainer.term, parent=parent)
            )
        held_out = HeldOutAnswers.of(document)
        if self.accepted:
            self.emit(Scored(name=f"arm {arm}", metric=self.metric, score=self.score(held_out)))
        return held_out

    def answer_untrained(self, query_only: Sequence[Sequence[int]]) -> list[str]:
        """Answer as all other arms that use the base weights and that the job asks for, and return their names.

        Args:
            query_only: The prompts of the last stage, which are those of Base.
        """
        session = self.session
        requested = session.job.spec.evaluation.arms
        prompts: dict[str, Sequence[Sequence[int]]] = {}
        if Arm.BASE in requested:
            prompts[Arm.BASE] = query_only
        if Arm.TEMPLATE_ONLY in requested and session.examples.shots > 0:  # otherwise it is FullPrompt
            prompts[Arm.TEMPLATE_ONLY] = session.encode_held_out(session.full_template, 0)
        if Arm.COMPRESSED_ONLY in requested:
            prompts |= self._compressed_prompts()
        for arm, own in prompts.items():
            self.answer(arm, own, parent=None)
        return list(prompts)

    def _compressed_prompts(self) -> dict[str, Sequence[Sequence[int]]]:
        """Return the prompts of each stage by arm, without the stages whose prompts are those of FullPrompt or Base."""
        session = self.session
        has_base, last = Arm.BASE in session.job.spec.evaluation.arms, len(session.stages) - 1
        full = (session.full_template.text, session.examples.shots)
        return {
            compressed_arm(stage.index): session.encode_held_out(template, stage.shots)
            for stage, template in zip(session.stages, session.templates, strict=True)
            if (template.text, stage.shots) != full and not (has_base and stage.index == last)
        }

    def train(self, track: Track, prompts: Sequence[Sequence[int]], *, rows: Sequence[Encoded] | None, arm: str) -> str:
        """Train the adapter of ``arm`` on written answers, answer ``prompts``, and return the manifest's digest.

        Args:
            track: The track of the arm.
            prompts: The prompts of all held-out rows, as token ids.
            rows: The encoded training rows, or None to encode the rows here.
            arm: The name of the arm.
        """
        manifest = self.committed(track.key)
        if manifest is None:
            with self.session.clock.phase(Phase.PREPARE):
                prepared = prepare_track(self.session, track, rows)
            lr_span = lr_span_of(self.session, track, len(prepared.steps), before=0, after=0)
            trajectory = self.trainer.train(prepared, lr_span)
            manifest = self.trainer.commit(track, trajectory, self.trainer.record(prepared, trajectory))
        else:
            self.trainer.load(track.key)
        self.answer(arm, prompts, parent=manifest.digest())
        return manifest.digest()

    def score(self, answers: HeldOutAnswers) -> float:
        """Return the score of answers to the first held-out rows, in the job's first metric."""
        return score_held_out(self.session.job.spec.evaluation, self.metric, answers, self.accepted)

    def committed(self, key: str) -> Manifest | None:
        """Return the manifest of a track that was trained before, or None."""
        return distributed.from_rank_zero(lambda: self.store.stage_manifest(key))

    def emit(self, event: Note | Scored | StageDone) -> None:
        """Send ``event`` to the observer if this worker has rank 0."""
        if distributed.rank() == 0:
            self.observer.emit(event)
