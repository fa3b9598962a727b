"""The observer of workers in other processes, which reach the driver through a Ray actor."""

import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import ray

from promptintern.leaving import is_leaving
from promptintern.pipeline.events import CheckpointSaved, Claimed, Ending, Event, Note, StageDone

_POLL_SECONDS = 0.5


class Mailbox:
    """A Ray actor that holds the workers' events for the driver, and the driver's request to stop for the workers."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stop = False
        self._ending: tuple[Ending, list[tuple[str, str]]] | None = None
        self._saved_at: str | None = "the start"
        self._furthest: dict[int | None, float] = {}
        self._progress_count = 0
        self._last_contact = time.monotonic()

    def put(self, event: Event) -> None:
        """Add an event of a worker."""
        self._events.append(event)
        self._last_contact = time.monotonic()
        match event:
            case Claimed():
                self._saved_at = None
            case StageDone(record=record):
                self._count_progress(record.index, math.inf)
            case CheckpointSaved(stage=track, step=step):
                self._count_progress(track, step)

    def take(self) -> list[Event]:
        """Return all events since the last call. Called by the driver."""
        events, self._events = self._events, []
        return events

    def request_stop(self) -> None:
        """Ask the workers to save and stop. Called by the driver."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Return whether the driver requested a stop. Workers call it repeatedly, which shows that they live."""
        self._last_contact = time.monotonic()
        return self._stop

    def seconds_since_contact(self) -> float:
        """Return the seconds since the last call from a worker."""
        return time.monotonic() - self._last_contact

    def set_saved(self, where: str) -> None:
        """Record that all up to ``where`` is stored and the workers end to restart elsewhere. Called by a worker."""
        self._saved_at = where
        self._progress_count += 1
        self._events.append(
            Note(text=f"the pod of a worker is about to be deleted; saved at {where}; the workers restart from there")
        )

    def saved_at(self) -> str | None:
        """Return up to where the run is saved if no worker is running, or None."""
        return self._saved_at

    def progress_count(self) -> int:
        """Return how often a run came further than ever before, or saved in order to restart elsewhere.

        Workers that restart report all committed stages again, and may save again what was saved before. A run that
        ends at the same point each time makes no progress.
        """
        return self._progress_count

    def _count_progress(self, track: int | None, step: float) -> None:
        if step > self._furthest.get(track, -1):
            self._furthest[track] = step
            self._progress_count += 1

    def set_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Record how the run ended. Called by workers; only the first call counts."""
        if self._ending is None:
            self._ending = (kind, list(problems))

    def ending(self) -> tuple[Ending, list[tuple[str, str]]] | None:
        """Return the kind of ending and its problems, or None if no worker has recorded an ending."""
        return self._ending


class RayObserver:
    """An observer that can be sent to workers. It polls for a stop in the background, so a step costs no round trip."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._stop = threading.Event()
        self._poller: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"mailbox": self._mailbox}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["mailbox"])  # type: ignore[misc]

    def emit(self, event: Event) -> None:
        """Send ``event`` to the mailbox, without waiting for its arrival."""
        self._mailbox.put.remote(event)

    def stop_requested(self) -> bool:
        """Return whether a stop was requested, as of at most half a second ago."""
        if self._poller is None:
            self._poller = threading.Thread(target=self._poll, daemon=True, name="stop-poller")
            self._poller.start()
        return self._stop.is_set()

    def record_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Record the ending in the mailbox, and wait until it is there."""
        ray.get(self._mailbox.set_ending.remote(kind, list(problems)))

    def has_ending(self) -> bool:
        """Return whether any worker has recorded an ending."""
        return ray.get(self._mailbox.ending.remote()) is not None

    def record_saved(self, where: str) -> bool:
        """Return False if the driver requested the stop, and True if the pod of this worker or another one leaves."""
        if ray.get(self._mailbox.stop_requested.remote()):
            return False
        ray.get(self._mailbox.set_saved.remote(where))
        return True

    def _poll(self) -> None:
        # Polling goes on after a request to stop, because it shows the driver that a worker lives and will save.
        while True:
            if ray.get(self._mailbox.stop_requested.remote()) or is_leaving():
                self._stop.set()
            time.sleep(_POLL_SECONDS)
