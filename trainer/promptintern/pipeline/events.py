"""The events of a running job, and the observer that receives them and may ask the run to stop."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from promptintern.stage_record import StageRecord, Throughput, TrackPlan


@dataclass(frozen=True, kw_only=True)
class Note:
    """An event that only adds a sentence to the log."""

    text: str
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """The workers have claimed the run under ``term``."""

    term: int


@dataclass(frozen=True, kw_only=True)
class TrainingBegan:
    """A stage or the Direct arm begins or continues to train."""

    name: str
    stage: int | None
    """The index of the stage, from 0; None for Direct."""
    plan: TrackPlan
    steps: int
    """The number of optimizer steps of the stage or of Direct."""
    done: int
    """The number of optimizer steps that earlier workers have taken."""
    computed_tokens: int
    """The number of tokens that the model computes in all steps. Tokens that rows of a step share count once."""
    loss_tokens: int
    """The number of tokens, in all steps, from which a loss is computed."""
    lanes: int
    """The largest number of packs that a worker computes concurrently."""
    started_at: datetime
    """The time at which the stage or Direct first began to train, possibly under an earlier driver."""


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A stage or the Direct arm has taken another optimizer step."""

    name: str
    stage: int | None
    """The index of the stage, from 0; None for Direct."""
    done: int
    steps: int
    loss: float
    seconds: float
    """The training time so far in seconds, over all attempts, without evaluation."""
    throughput: Throughput


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A stage or the Direct arm has taken all its optimizer steps."""

    name: str
    seconds: float
    """The training time in seconds, without evaluation."""
    throughput: Throughput


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The model has answered another batch of queries: held-out queries, or those of the teacher."""

    name: str
    done: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The answers of a stage or of an arm were scored."""

    name: str
    metric: str
    score: float


@dataclass(frozen=True, kw_only=True)
class StageDone:
    """A stage is committed, either by the present workers or by earlier ones."""

    record: StageRecord


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    """A checkpoint of a stage or of the Direct arm is stored."""

    stage: int | None
    """The index of the stage, from 0; None for Direct."""
    step: int
    folder: str
    """The folder of the checkpoint, relative to the run's folder."""


@dataclass(frozen=True, kw_only=True)
class ShardStored:
    """A shard of a teacher's answers is committed, either by the present workers or by earlier ones."""

    teacher: str
    """The name of the teacher in storage."""
    number: int


Event = (
    Note | Claimed | TrainingBegan | Stepped | Trained | Answered | Scored | StageDone | CheckpointSaved | ShardStored
)


class Stopped(Exception):  # noqa: N818 -- an outcome, not an error
    """The run stopped because its observer requested a stop. Its state is saved up to the point ``where``."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


Ending = Literal["stopped", "user", "failed", "infrastructure"]
"""The cause for which a run ended early: a requested stop, a mistake of the user, another failure of the run, or a
failure of the infrastructure."""


class Observer(Protocol):
    """A receiver of a worker's events, which may ask the worker to stop."""

    def emit(self, event: Event) -> None:
        """Record ``event``, without blocking for long and without raising an error."""

    def stop_requested(self) -> bool:
        """Return whether the run has been asked to save its state and stop."""

    def record_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Record why the run ended early. Only the first call has an effect.

        Args:
            kind: The cause for which the run ended.
            problems: The place and the message of each problem.
        """

    def has_ending(self) -> bool:
        """Return whether ``record_ending`` has been called."""

    def record_saved(self, where: str) -> bool:
        """Record that the state of the run is stored up to the point ``where``, and return whether the run goes on.

        The run goes on, with workers that restart elsewhere, if it saved because a worker's pod is about to be deleted.
        Otherwise, the run stops.
        """
