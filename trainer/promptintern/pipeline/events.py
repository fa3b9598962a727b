"""What a run tells while it goes on, and how it is asked to stop."""

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
    """The workers own the run from now on, as ``term``."""

    term: int


@dataclass(frozen=True, kw_only=True)
class TrainingBegan:
    """A stage (or the Direct arm) starts or continues."""

    name: str
    stage: int | None
    """The stage's number, from 0; None for Direct."""
    plan: TrackPlan
    steps: int
    """Optimizer steps of the whole training."""
    done: int
    """Steps that were done before."""
    computed_tokens: int
    """Tokens of all steps that go through the model, shared ones once."""
    loss_tokens: int
    """Tokens of all steps with a loss."""
    lanes: int
    """The largest number of packs that a worker computes side by side."""
    started_at: datetime
    """Time of the first step, whichever driver took it."""


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """Optimizer steps were done."""

    name: str
    stage: int | None
    """The stage's number, from 0; None for Direct."""
    done: int
    steps: int
    loss: float
    throughput: Throughput


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A stage (or the Direct arm) has taken all its steps."""

    name: str
    seconds: float
    """Training time without evaluation."""
    throughput: Throughput


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Held-out queries were answered."""

    name: str
    done: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A stage or an arm has its score."""

    name: str
    metric: str
    score: float


@dataclass(frozen=True, kw_only=True)
class StageDone:
    """A stage is committed, by these workers or by earlier ones."""

    record: StageRecord


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    """A checkpoint of a stage is stored."""

    stage: int | None
    """None for Direct."""
    step: int
    folder: str
    """Below the run's folder."""


Event = Note | Claimed | TrainingBegan | Stepped | Trained | Answered | Scored | StageDone | CheckpointSaved


class Stopped(Exception):  # noqa: N818 -- an outcome
    """The run saved its state and stopped because somebody asked for it."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


Ending = Literal["stopped", "user", "failed", "infrastructure"]


class Observer(Protocol):
    """The other end of a running worker."""

    def emit(self, event: Event) -> None:
        """Tell ``event``; never blocks for long, never raises."""

    def stop_requested(self) -> bool:
        """Whether somebody asked the run to save and stop."""

    def record_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Tell how the run ended, if not well: pairs of place and message. The first call counts."""

    def has_ending(self) -> bool:
        """Whether an ending was told already."""

    def record_saved(self, where: str) -> bool:
        """After a save at ``where``: True if only a worker's pod has to go, so that the workers start again elsewhere;
        False if the run stops."""
