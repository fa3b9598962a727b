"""From events to ``status.training``."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Literal

from promptintern_api.contract import ADAPTER_FOLDER, REPORT_FOLDER, REPORT_HTML
from promptintern_api.training_status import Failure, Outputs, Progress, StageStatus, TimeShares, TrainingStatus

from promptintern.pipeline.events import CheckpointSaved, Claimed, Event, StageDone, Stepped, TrainingBegan

_RECENT_STEPS = 20
"""The steps by whose time the time that is left is told. The first ones of a stage are slower."""


class TrainingProgress:
    """The trainer's part of a job's status, as the events so far tell it."""

    def __init__(self, *, run_uri: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_uri = run_uri
        self._clock = clock
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT_STEPS + 1)
        """When how many steps were done."""
        self._term = 0
        self._stages: dict[int, StageStatus] = {}
        self._progress: Progress | None = None
        self._failure: Failure | None = None
        self._outputs: Outputs | None = None

    def note(self, event: Event) -> None:
        """Take ``event`` in."""
        match event:
            case Claimed(term=term):
                self._term = term
            case TrainingBegan(stage=int() as stage):
                self._change(
                    stage,
                    rate=event.rate,
                    shots=event.shots,
                    prompt_tokens=event.prompt_tokens,
                    started_at=datetime.fromisoformat(event.started_at),
                )
                self._progress = Progress(step=event.done, total=event.steps)
                self._recent.clear()
                self._recent.append((self._clock(), event.done))
            case Stepped(stage=int() as stage):
                self._change(stage, loss=event.loss)
                self._recent.append((self._clock(), event.done))
                self._progress = Progress(
                    step=event.done,
                    total=event.steps,
                    examples_per_second=round(event.speed.examples, 1),
                    tokens_per_second=round(event.speed.tokens, 1),
                    computed_tokens_per_second=_rounded(event.speed.computed, 1),
                    loss_tokens_per_second=round(event.speed.loss_tokens, 1),
                    mfu=_rounded(event.speed.mfu, 3),
                    time_shares=_shares(event.speed.shares),
                    eta_seconds=self._seconds_left(event.steps),
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
                    **_times(event),
                    checkpoint=None,
                )
                self._progress = None

    def fail(self, *, who: Literal["User", "Application", "Infrastructure"], message: str, ray_job: str | None) -> None:
        """Say why the trainer ends, and who has to act."""
        self._failure = Failure(failure_class=who, message=message[:32_768], ray_job=ray_job)

    def succeed(self) -> None:
        """Say what the run leaves."""
        self._outputs = Outputs(
            adapter=f"{self._run_uri}/{ADAPTER_FOLDER}",
            report=f"{self._run_uri}/{REPORT_FOLDER}/{REPORT_HTML}",
        )
        self._progress = None

    def status(self) -> TrainingStatus:
        """What is to be said now."""
        return TrainingStatus(
            term=self._term,
            stages=[self._stages[index] for index in sorted(self._stages)],
            progress=self._progress,
            failure=self._failure,
            outputs=self._outputs,
        )

    def _change(self, stage: int, **changes: object) -> None:
        known = self._stages.get(stage) or StageStatus(index=stage, rate=0, shots=0, prompt_tokens=0)
        self._stages[stage] = known.model_copy(update=changes)

    def _seconds_left(self, steps: int) -> float | None:
        (began, before), (now, done) = self._recent[0], self._recent[-1]
        return round((now - began) / (done - before) * (steps - done), 1) if done > before else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _shares(shares: Mapping[str, float]) -> TimeShares | None:
    return TimeShares(**{part: round(share, 3) for part, share in shares.items()}) if shares else None


def _times(stage: StageDone) -> dict[str, datetime]:
    """What is known of them."""
    told = {"started_at": stage.started_at, "finished_at": stage.finished_at}
    return {name: datetime.fromisoformat(text) for name, text in told.items() if text is not None}
