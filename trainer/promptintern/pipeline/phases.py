"""The wall time of a run by phase."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum

from promptintern.report.facts import AttemptFacts
from promptintern.storage.run import RunStore

TIMES_FOLDER = "times"


class Phase(StrEnum):
    """What a worker does for a while."""

    LOAD = "load"
    """Load the rows and the base model, and find out how to compute with it."""
    PREPARE = "prepare"
    """Render and tokenize prompts, and plan steps, while nothing else goes on."""
    TEACH = "teach"
    """Let a model answer the queries of data.queries, write queries, and store its distributions."""
    TRAIN = "train"
    """Take optimizer steps, with the checkpoints that are written meanwhile."""
    EVALUATE = "evaluate"
    """Answer held-out queries and score the answers."""
    MEASURE = "measure latency"
    """Measure how long answers take."""
    SAVE = "save"
    """Commit adapters."""
    OTHER = "other"


_SECONDS_BETWEEN_KEEPS = 30


class PhaseClock:
    """A clock that assigns all elapsed time, without gaps, to phases.

    Args:
        keep: A function that stores the seconds by phase. It is called at the ends of phases, about every 30 seconds.
        now: A function that returns the present time in seconds.
    """

    def __init__(
        self,
        keep: Callable[[Mapping[Phase, float]], None] = lambda _seconds: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep, self._now = keep, now
        self._seconds: dict[Phase, float] = {}
        self._phase = Phase.OTHER
        self._since = self._kept = now()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Assign the time inside the ``with`` block to ``phase``, except for the time of phases inside this one."""
        before, self._phase = self._record(), phase
        try:
            yield
        finally:
            self._record()
            self._phase = before
        self.tick()  # not after an error, which storage must not replace

    def tick(self) -> None:
        """Store the seconds of each phase if they have not been stored for about 30 seconds."""
        if self._now() - self._kept >= _SECONDS_BETWEEN_KEEPS:
            self.keep()

    def seconds(self) -> dict[Phase, float]:
        """Return the seconds of each phase so far."""
        self._record()
        return {phase: self._seconds[phase] for phase in Phase if phase in self._seconds}

    def keep(self) -> None:
        """Store the seconds of each phase so far."""
        self._keep(self.seconds())
        self._kept = self._since

    def _record(self) -> Phase:
        """Assign the time since the last record to the present phase, and return this phase."""
        now = self._now()
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._since = now
        return self._phase


def store_phases(store: RunStore, term: int, seconds: Mapping[Phase, float]) -> None:
    """Store the seconds of each phase under ``term``, in place of those that were stored before."""
    attempt = AttemptFacts(
        term=term,
        seconds={str(phase): round(value, 3) for phase, value in seconds.items()},
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    store.store.write(f"{TIMES_FOLDER}/t{term}.json", attempt.model_dump_json(by_alias=True, indent=2).encode())


def read_phases(store: RunStore) -> list[AttemptFacts]:
    """Return the stored times of all terms, the oldest first.

    A term whose workers were killed within about 30 seconds has none.
    """
    found = []
    for term in range(1, store.newest_term() + 1):
        try:
            found.append(AttemptFacts.model_validate_json(store.store.read(f"{TIMES_FOLDER}/t{term}.json")))
        except (FileNotFoundError, ValueError):
            continue
    return found
