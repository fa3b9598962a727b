"""The events of a running job, and the observer that receives them and may ask the run to stop."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from promptintern.stage_record import StageRecord, Throughput, TrackPlan


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence for the log."""

    text: str
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """The workers have claimed the run under ``term``."""

    term: int


@dataclass(frozen=True, kw_only=True)
class TrainingBegan:
    """The training of a stage or of the Direct arm starts or continues."""

    name: str
    stage: int | None
    """The index of the stage, from 0; None for Direct."""
    plan: TrackPlan
    steps: int
    """The number of optimizer steps of the whole training."""
    done: int
    """The number of steps that were done before this start."""
    computed_tokens: int
    """The number of tokens that go through the model in all steps; shared tokens count once."""
    loss_tokens: int
    """The number of tokens that have a loss, in all steps."""
    lanes: int
    """The largest number of packs that a worker computes concurrently."""
    started_at: datetime
    """The time at which the training first started, possibly under an earlier driver."""


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """The training has taken another optimizer step."""

    name: str
    stage: int | None
    """The index of the stage, from 0; None for Direct."""
    done: int
    steps: int
    loss: float
    throughput: Throughput


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The training of a stage or of the Direct arm has taken all its steps."""

    name: str
    seconds: float
    """The training time in seconds, without evaluation."""
    throughput: Throughput


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Another batch of held-out queries was answered."""

    name: str
    done: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A stage or an arm was scored."""

    name: str
    metric: str
    score: float


@dataclass(frozen=True, kw_only=True)
class StageDone:
    """A stage was committed by these workers or by earlier ones."""

    record: StageRecord


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    """A checkpoint of a training is stored."""

    stage: int | None
    """The index of the stage, from 0; None for Direct."""
    step: int
    folder: str
    """The folder of the checkpoint, relative to the run's folder."""


Event = Note | Claimed | TrainingBegan | Stepped | Trained | Answered | Scored | StageDone | CheckpointSaved


class Stopped(Exception):  # noqa: N818 -- an outcome, not an error
    """The run saved its state at ``where`` and stopped, because its observer requested a stop."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


Ending = Literal["stopped", "user", "failed", "infrastructure"]
"""The way in which a run ended early: a requested stop, a user's mistake, a failed run, or failed infrastructure."""


class Observer(Protocol):
    """A receiver of a worker's events, which may ask the worker to stop."""

    def emit(self, event: Event) -> None:
        """Record ``event``. This never blocks for long and never raises."""

    def stop_requested(self) -> bool:
        """Return whether the run should save and stop."""

    def record_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Record how the run ended early. Only the first call counts.

        Args:
            kind: The kind of ending.
            problems: The place and the message of each problem.
        """

    def has_ending(self) -> bool:
        """Return whether an ending was recorded."""

    def record_saved(self, where: str) -> bool:
        """Record that everything up to ``where`` is stored.

        Return True if the workers restart elsewhere, because the pod of a worker is about to be deleted, or False if
        the run stops.
        """
