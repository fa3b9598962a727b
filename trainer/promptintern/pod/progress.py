"""From events to ``status.training``."""

from datetime import UTC, datetime
from typing import Literal

from promptintern_api.status import Failure, Outputs, Progress, StageStatus, TrainingStatus

from promptintern.run.events import CheckpointSaved, Claimed, Event, StageDone, Stepped, TrainingBegan


class TrainingProgress:
    """The trainer's part of a job's status, as the events so far tell it."""

    def __init__(self, *, run_uri: str) -> None:
        self._run_uri = run_uri
        self._epoch = 0
        self._stages: dict[int, StageStatus] = {}
        self._progress: Progress | None = None
        self._failure: Failure | None = None
        self._outputs: Outputs | None = None

    def note(self, event: Event) -> None:
        """Take ``event`` in."""
        match event:
            case Claimed(epoch=epoch):
                self._epoch = epoch
            case TrainingBegan(stage=int() as stage):
                self._change(
                    stage,
                    rate=event.rate,
                    shots=event.shots,
                    prompt_tokens=event.prompt_tokens,
                    started_at=_now(),
                )
                self._progress = Progress(step=event.done, total=event.steps)
            case Stepped(stage=int() as stage):
                self._change(stage, loss=event.loss)
                self._progress = Progress(
                    step=event.done, total=event.steps, tokens_per_second=round(event.tokens_per_second, 1)
                )
            case CheckpointSaved(stage=int() as stage):
                self._change(stage, checkpoint=f"{self._run_uri}/{event.folder}")
            case StageDone():
                self._change(
                    event.stage,
                    rate=event.rate,
                    shots=event.shots,
                    prompt_tokens=event.prompt_tokens,
                    loss=event.loss,
                    score=event.score,
                    finished_at=datetime.fromisoformat(event.finished_at) if event.finished_at else None,
                    checkpoint=None,
                )
                self._progress = None

    def fail(self, *, who: Literal["User", "Application", "Infrastructure"], message: str, ray_job: str | None) -> None:
        """Say why the trainer ends, and who has to act."""
        self._failure = Failure(failure_class=who, message=message[:32_768], ray_job=ray_job)

    def succeed(self) -> None:
        """Say what the run leaves."""
        self._outputs = Outputs(adapter=f"{self._run_uri}/adapter", report=f"{self._run_uri}/report/report.html")
        self._progress = None

    def status(self) -> TrainingStatus:
        """What is to be said now."""
        return TrainingStatus(
            attempt=self._epoch,
            stages=[self._stages[index] for index in sorted(self._stages)],
            progress=self._progress,
            failure=self._failure,
            outputs=self._outputs,
        )

    def _change(self, stage: int, **changes: object) -> None:
        known = self._stages.get(stage) or StageStatus(index=stage, rate=0, shots=0, prompt_tokens=0)
        self._stages[stage] = known.model_copy(update=changes)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
