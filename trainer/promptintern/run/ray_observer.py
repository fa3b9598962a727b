"""The observer of Ray workers, which communicates with the driver through a Ray actor."""

import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.train import UserCallback

from promptintern.leaving import is_leaving
from promptintern.pipeline.events import CheckpointSaved, Claimed, Ending, Event, Note, ShardStored, StageDone

_POLL_SECONDS = 0.5
_OURS = re.compile(r"^promptintern\.[\w.]+(:|$)", re.MULTILINE)
"""A pattern that finds one of our own exceptions at the end of a traceback."""


class Mailbox:
    """A Ray actor that holds the workers' events for the driver, and the driver's request to stop for the workers."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stop = False
        self._ending: tuple[Ending, list[tuple[str, str]]] | None = None
        self._saved_at: str | None = "the start"
        self._furthest: dict[int | str | None, float] = {}
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
            case ShardStored(teacher=teacher, number=number):
                self._count_progress(teacher, number)
            case CheckpointSaved(stage=track, step=step):
                self._count_progress(track, step)

    def take(self) -> list[Event]:
        """Return the events that were recorded since the driver last called this method."""
        events, self._events = self._events, []
        return events

    def request_stop(self) -> None:
        """Record that the driver asks the workers to save and stop."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Return whether the driver requested a stop. Workers also show by calling this method that they are alive."""
        self._last_contact = time.monotonic()
        return self._stop

    def seconds_since_contact(self) -> float:
        """Return the number of seconds since a worker last sent an event or called ``stop_requested``."""
        return time.monotonic() - self._last_contact

    def set_saved(self, where: str) -> None:
        """Record that the run is saved up to the point ``where``, and that the workers exit and restart elsewhere.

        A worker calls this method.
        """
        self._saved_at = where
        self._progress_count += 1
        self._events.append(
            Note(text=f"the pod of a worker is about to be deleted; saved at {where}; the workers restart from there")
        )

    def saved_at(self) -> str | None:
        """Return the point up to which the run is saved if no worker is running, or None if workers are running."""
        return self._saved_at

    def progress_count(self) -> int:
        """Return how many times the run got further than ever before, or saved in order to restart elsewhere.

        Restarted workers report all committed stages again, and may save checkpoints of the same steps again. These
        repetitions do not count, so a run that fails at the same point every time makes no progress.
        """
        return self._progress_count

    def _count_progress(self, track: int | str | None, step: float) -> None:
        if step > self._furthest.get(track, -1):
            self._furthest[track] = step
            self._progress_count += 1

    def set_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Record why the run ended early. Workers call this method, and only the first call has an effect."""
        if self._ending is None:
            self._ending = (kind, list(problems))

    def ending(self) -> tuple[Ending, list[tuple[str, str]]] | None:
        """Return how the run ended early and the problems that caused it, or None if no worker has recorded an end."""
        return self._ending


class FailureNotes(UserCallback):  # type: ignore[misc]
    """A callback in Ray Train's controller that tells the driver how workers failed before Ray Train restarts them.

    Failures that our own exceptions describe are left out: the driver reports them once the run has ended.
    """

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Send the driver a warning about each worker that failed, with the traceback."""
        for rank, error in sorted(worker_exceptions.items()):
            text = str(error).strip() or type(error).__name__
            if not _OURS.search(text):
                self._mailbox.put.remote(Note(text=f"worker {rank} failed: {text}", warning=True))


class RayObserver:
    """An observer that can be sent to workers.

    It asks the mailbox in the background whether to stop, so that no training step waits for the answer.
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
        """Return whether the worker should save and stop. The answer is at most half a second old.

        The reason may be a request from the driver, or that the worker's pod is about to be deleted."""
        if self._poller is None:
            self._poller = threading.Thread(target=self._poll, daemon=True, name="stop-poller")
            self._poller.start()
        return self._stop.is_set()

    def record_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Record in the mailbox why the run ended early, and wait until the mailbox has received it."""
        ray.get(self._mailbox.set_ending.remote(kind, list(problems)))

    def has_ending(self) -> bool:
        """Return whether any worker has recorded why the run ended early."""
        return ray.get(self._mailbox.ending.remote()) is not None

    def record_saved(self, where: str) -> bool:
        """Return False if the driver requested a stop. Otherwise, record that the run is saved, and return True.

        If the driver requested no stop, the workers save because the pod of a worker is about to be deleted.
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
