"""The observer of workers in other processes: a Ray actor between them and the driver."""

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
    """Holds events until the driver takes them, and the driver's wish to stop until workers ask. Runs as an actor."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stop = False
        self._ending: tuple[Ending, list[tuple[str, str]]] | None = None
        self._saved_at: str | None = "the start"
        self._furthest: dict[int | None, float] = {}
        self._progress_count = 0
        self._last_contact = time.monotonic()

    def put(self, event: Event) -> None:
        """From a worker."""
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
        """All events since the last call, for the driver."""
        events, self._events = self._events, []
        return events

    def request_stop(self) -> None:
        """From the driver."""
        self._stop = True

    def stop_requested(self) -> bool:
        """For the workers, who ask again and again."""
        self._last_contact = time.monotonic()
        return self._stop

    def seconds_since_contact(self) -> float:
        """Seconds since a worker was last heard of."""
        return time.monotonic() - self._last_contact

    def set_saved(self, where: str) -> None:
        """From a worker: everything up to ``where`` is stored, and the workers end to begin elsewhere."""
        self._saved_at = where
        self._progress_count += 1
        self._events.append(
            Note(text=f"the pod of a worker is about to be deleted; saved at {where}; the workers restart there")
        )

    def saved_at(self) -> str | None:
        """Where the run stands while no workers are at it."""
        return self._saved_at

    def progress_count(self) -> int:
        """How often something was stored that no workers had reached before, or workers saved to begin elsewhere.

        Workers that begin again tell all stages that are committed, and may save again what was saved before: a run
        that ends there each time does not get on.
        """
        return self._progress_count

    def _count_progress(self, track: int | None, step: float) -> None:
        if step > self._furthest.get(track, -1):
            self._furthest[track] = step
            self._progress_count += 1

    def set_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """From a worker; the first one counts."""
        if self._ending is None:
            self._ending = (kind, list(problems))

    def ending(self) -> tuple[Ending, list[tuple[str, str]]] | None:
        """How the run ended, if a worker told."""
        return self._ending


class RayObserver:
    """An observer that can be sent to workers. Asks for a stop in the background: a step costs no round trip."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._stop = threading.Event()
        self._poller: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"mailbox": self._mailbox}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["mailbox"])  # type: ignore[misc]

    def emit(self, event: Event) -> None:
        """Send and forget."""
        self._mailbox.put.remote(event)

    def stop_requested(self) -> bool:
        """As of half a second ago."""
        if self._poller is None:
            self._poller = threading.Thread(target=self._poll, daemon=True, name="stop-poller")
            self._poller.start()
        return self._stop.is_set()

    def record_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Tell the driver, and wait until it is told."""
        ray.get(self._mailbox.set_ending.remote(kind, list(problems)))

    def has_ending(self) -> bool:
        """Whether a worker told an ending."""
        return ray.get(self._mailbox.ending.remote()) is not None

    def record_saved(self, where: str) -> bool:
        """False if the driver wanted the stop; else it was this worker's pod, or another's."""
        if ray.get(self._mailbox.stop_requested.remote()):
            return False
        ray.get(self._mailbox.set_saved.remote(where))
        return True

    def _poll(self) -> None:
        # To the end, also when the stop is known: by this the driver hears that somebody is there who saves.
        while True:
            if ray.get(self._mailbox.stop_requested.remote()) or is_leaving():
                self._stop.set()
            time.sleep(_POLL_SECONDS)
