"""What a run tells while it goes on, and how it is asked to stop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence for the log."""

    text: str
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingBegan:
    """A stage (or the Direct arm) starts or continues."""

    name: str
    steps: int
    done: int
    rate: float
    shots: int
    prompt_tokens: float


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """Optimizer steps were done."""

    name: str
    done: int
    steps: int
    loss: float
    tokens_per_second: float


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


Event = Note | TrainingBegan | Stepped | Answered | Scored


class Stopped(Exception):  # noqa: N818 -- an outcome
    """The run saved its state and stopped because somebody asked for it."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


Ending = Literal["stopped", "user", "failed"]


class Observer(Protocol):
    """The other end of a running worker."""

    def emit(self, event: Event) -> None:
        """Tell ``event``; never blocks for long, never raises."""

    def stop_requested(self) -> bool:
        """Whether somebody asked the run to save and stop."""

    def end(self, how: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Tell how the run ended, if not well: pairs of place and message. The first call counts."""

    def ended(self) -> bool:
        """Whether an ending was told already."""
