"""The observer for workers in other processes, which communicates with the driver through a Ray actor."""

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
        """Record an event that a worker sent."""
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
        """Return all events since the last call. The driver calls this."""
        events, self._events = self._events, []
        return events

    def request_stop(self) -> None:
        """Ask the workers to save and stop. The driver calls this."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Return whether the driver requested a stop. Workers call this repeatedly, which shows that they are alive."""
        self._last_contact = time.monotonic()
        return self._stop

    def seconds_since_contact(self) -> float:
        """Return the number of seconds since the last call from a worker."""
        return time.monotonic() - self._last_contact

    def set_saved(self, where: str) -> None:
        """Record that everything up to ``where`` is stored, and that the workers exit to restart elsewhere.

        A worker calls this.
        """
        self._saved_at = where
        self._progress_count += 1
        self._events.append(
            Note(text=f"the pod of a worker is about to be deleted; saved at {where}; the workers restart from there")
        )

    def saved_at(self) -> str | None:
        """Return the point up to which the run is saved, or None if workers are running."""
        return self._saved_at

    def progress_count(self) -> int:
        """Return how many times the run got further than ever before, or saved in order to restart elsewhere.

        Restarted workers report all committed stages again, and may save the same steps again. Neither counts, so
        a run that fails at the same point every time makes no progress.
        """
        return self._progress_count

    def _count_progress(self, track: int | None, step: float) -> None:
        if step > self._furthest.get(track, -1):
            self._furthest[track] = step
            self._progress_count += 1

    def set_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Record how the run ended. Workers call this, and only the first call counts."""
        if self._ending is None:
            self._ending = (kind, list(problems))

    def ending(self) -> tuple[Ending, list[tuple[str, str]]] | None:
        """Return the kind of ending and its problems, or None if no worker has recorded an ending."""
        return self._ending


class RayObserver:
    """An observer that can be sent to workers.

    It polls for a request to stop in the background, so that no training step waits for a round trip to the mailbox.
    """

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
        """Return whether a stop was requested. The answer is at most half a second old."""
        if self._poller is None:
            self._poller = threading.Thread(target=self._poll, daemon=True, name="stop-poller")
            self._poller.start()
        return self._stop.is_set()

    def record_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Record the ending in the mailbox, and wait until it has arrived."""
        ray.get(self._mailbox.set_ending.remote(kind, list(problems)))

    def has_ending(self) -> bool:
        """Return whether any worker has recorded an ending."""
        return ray.get(self._mailbox.ending.remote()) is not None

    def record_saved(self, where: str) -> bool:
        """Return False if the driver requested the stop. Otherwise, record the save and return True.

        Without a request from the driver, the workers stop because the pod of one of them is leaving.
        """
        if ray.get(self._mailbox.stop_requested.remote()):
            return False
        ray.get(self._mailbox.set_saved.remote(where))
        return True

    def _poll(self) -> None:
        # Polling continues after a request to stop, because it shows the driver that the worker is alive and will save.
        while True:
            if ray.get(self._mailbox.stop_requested.remote()) or is_leaving():
                self._stop.set()
            time.sleep(_POLL_SECONDS)
