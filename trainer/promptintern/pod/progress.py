"""The computation of ``status.training`` from a run's events."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from promptintern_api.contract import ADAPTER_FOLDER, REPORT_FOLDER, REPORT_HTML
from promptintern_api.training_status import (
    Answering,
    Failure,
    Outputs,
    Progress,
    Result,
    StageStatus,
    TimeShares,
    TrainingStatus,
)

from promptintern.pipeline.events import Answered, CheckpointSaved, Claimed, Event, StageDone, Stepped, TrainingBegan
from promptintern.report.facts import FULL_PROMPT
from promptintern.report.schema import Report
from promptintern.stage_record import StageRecord, Throughput, TrackPlan

_RECENT_STEPS = 20
"""The number of recent steps from which the remaining time is estimated. Older steps are left out, because the first
steps of a stage are slower."""


class TrainingProgress:
    """The part of a job's status that the trainer writes, computed from the events of the run so far."""

    def __init__(self, *, run_uri: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_uri = run_uri
        self._clock = clock
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT_STEPS + 1)
        """The recent steps, each as the time of its end and the number of steps completed by then."""
        self._term = 0
        self._stages: dict[int, StageStatus] = {}
        self._progress: Progress | None = None
        self._answering: Answering | None = None
        self._failure: Failure | None = None
        self._result: Result | None = None
        self._outputs: Outputs | None = None

    def note(self, event: Event) -> None:
        """Apply ``event`` to the status."""
        match event:
            case Claimed(term=term):
                self._term = term
            case TrainingBegan(stage=int() as stage):
                self._change(stage, **_planned(event.plan), started_at=event.started_at)
                self._begin_training(event)
            case TrainingBegan():
                self._begin_training(event)  # Direct, which has no entry among the stages
            case Stepped():
                if event.stage is not None:
                    self._change(event.stage, loss=event.loss, seconds=round(event.seconds, 1))
                self._recent.append((self._clock(), event.done))
                self._progress = Progress(
                    name=event.name[:100],
                    step=event.done,
                    total=event.steps,
                    **_rounded(event.throughput),
                    eta_seconds=self._seconds_left(event.steps),
                )
            case Answered():
                if self._answering is None or self._answering.name != event.name[:100]:
                    self._recent.clear()
                self._recent.append((self._clock(), event.done))
                self._progress = None
                self._answering = Answering(
                    name=event.name[:100],
                    answered=event.done,
                    total=event.rows,
                    eta_seconds=self._seconds_left(event.rows),
                )
            case CheckpointSaved(stage=int() as stage):
                self._change(stage, checkpoint=f"{self._run_uri}/{event.folder}")
            case StageDone(record=record):
                self._stages[record.index] = stage_status(record)
                self._progress = self._answering = None

    def fail(self, *, who: Literal["User", "Application", "Infrastructure"], message: str, ray_job: str | None) -> None:
        """Record that the trainer failed with ``message``, and who or what caused the failure."""
        self._failure = Failure(failure_class=who, message=message[:32_768], ray_job=ray_job)
        self._progress = self._answering = None

    def succeed(self, report: Report) -> None:
        """Record that the run has finished, with the result in ``report``, and where its outputs are."""
        self._result = result_of(report)
        self._outputs = Outputs(
            adapter=f"{self._run_uri}/{ADAPTER_FOLDER}",
            report=f"{self._run_uri}/{REPORT_FOLDER}/{REPORT_HTML}",
        )
        self._progress = self._answering = None

    def status(self) -> TrainingStatus:
        """Return the status after the events so far."""
        return TrainingStatus(
            term=self._term,
            stages=[self._stages[index] for index in sorted(self._stages)],
            progress=self._progress,
            answering=self._answering,
            failure=self._failure,
            result=self._result,
            outputs=self._outputs,
        )

    def _begin_training(self, event: TrainingBegan) -> None:
        self._progress = Progress(name=event.name[:100], step=event.done, total=event.steps)
        self._answering = None
        self._recent.clear()
        self._recent.append((self._clock(), event.done))

    def _change(self, stage: int, **changes: object) -> None:
        stored = self._stages.get(stage) or StageStatus(index=stage, rate=0, shots=0, prompt_tokens=0)
        self._stages[stage] = stored.model_copy(update=changes)

    def _seconds_left(self, steps: int) -> float | None:
        (began, before), (now, done) = self._recent[0], self._recent[-1]
        return round((now - began) / (done - before) * (steps - done), 1) if done > before else None


def stage_status(record: StageRecord) -> StageStatus:
    """Return the entry in the job's status for the committed stage with the record ``record``."""
    return StageStatus(
        index=record.index,
        **_planned(record),
        loss=record.loss_last,
        score=record.score,
        seconds=round(record.seconds, 1),
        started_at=record.started_at,
        finished_at=record.finished_at,
    )


def result_of(report: Report) -> Result:
    """Return the result in ``report``."""
    verdict = report.verdict
    full, arm = report.arm(FULL_PROMPT), report.arm(verdict.arm) if verdict.arm else None
    assert full is not None, "every report has the arm FullPrompt"
    score = arm.figure(verdict.metric) if arm is not None else None
    return Result(
        verdict=verdict.outcome,
        headline=verdict.headline[:4096],
        metric=verdict.metric.value,
        score=score and score.value,
        score_low=score and score.low,
        score_high=score and score.high,
        full_prompt_score=full.figure(verdict.metric).value,
        rows=full.rows,
        tokens_before=full.prompt_tokens.mean,
        tokens_after=arm.prompt_tokens.mean if arm is not None else None,
    )


def _planned(plan: TrackPlan) -> dict[str, Any]:
    """Return the fields of ``StageStatus`` that the plan of a stage determines before its first step."""
    return {"rate": plan.achieved_rate, "shots": plan.shots, "prompt_tokens": plan.prompt_tokens_mean}


def _rounded(throughput: Throughput) -> dict[str, Any]:
    """Return the fields of ``Progress`` that describe the throughput, rounded."""
    shares = throughput.time_shares
    return {
        "examples_per_second": round(throughput.examples_per_second, 1),
        "tokens_per_second": round(throughput.tokens_per_second, 1),
        "computed_tokens_per_second": _round(throughput.computed_tokens_per_second, 1),
        "loss_tokens_per_second": round(throughput.loss_tokens_per_second, 1),
        "mfu": _round(throughput.mfu, 3),
        "time_shares": shares and TimeShares(**{phase: round(share, 3) for phase, share in shares}),
    }


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
