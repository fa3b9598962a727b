"""Saying how training goes: ``status.training`` of the job, by server-side apply, a few times a minute."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from promptintern_api import PromptInternJob
from promptintern_api.contract import TRAINER_FIELD_MANAGER
from promptintern_api.job import GROUP, PLURAL, VERSION

from promptintern.pipeline.events import Ending, Event, Observer
from promptintern.pod.progress import TrainingProgress
from promptintern.pod.unknown_fields import Patch, dropping_unknown_fields, error_message

SECONDS_BETWEEN = 10.0
PATIENCE = 60.0
"""How long the last word is tried, in seconds: nobody can say it afterwards."""
_TIMEOUT = 10.0
_GONE = (401, 404)
"""The job is gone, or this pod's identity: there is nobody to tell. 403 does not say so: a pod may not speak until the
operator has seen it, which takes a while if none was there."""
_log = structlog.get_logger("promptintern.pod")


def patch_of(job: PromptInternJob) -> Patch:
    """A function that applies ``status.training``, with the token that this pod was given.

    Raises:
        kubernetes.config.ConfigException: outside a pod with a token.
    """
    from kubernetes import client, config

    config.load_incluster_config()
    api = client.CustomObjectsApi()

    def patch(training: dict[str, Any]) -> None:
        api.patch_namespaced_custom_object_status(
            GROUP,
            VERSION,
            job.metadata.namespace,
            PLURAL,
            job.metadata.name,
            {
                "apiVersion": job.api_version,
                "kind": job.kind,
                "metadata": {"name": job.metadata.name, "namespace": job.metadata.namespace, "uid": job.metadata.uid},
                "status": {"training": training},
            },
            field_manager=TRAINER_FIELD_MANAGER,
            force=True,
            _content_type="application/apply-patch+yaml",
            _request_timeout=_TIMEOUT,
        )

    return patch


class StatusWriter:
    """Applies the newest status from a thread of its own, at most once in ``seconds``; what cannot be told is dropped.

    Training never waits for it, and no failure of the API server ends a run.
    """

    def __init__(
        self, progress: TrainingProgress, patch: Patch, *, seconds: float = SECONDS_BETWEEN, patience: float = PATIENCE
    ) -> None:
        self._progress = progress
        self._patch = dropping_unknown_fields(patch)
        self._seconds = seconds
        self._patience = patience
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._sent: dict[str, Any] | None = None
        self._is_gone = False
        self._thread = threading.Thread(target=self._work, name="status-writer", daemon=True)
        self._thread.start()

    def record(self, event: Event) -> None:
        """Take ``event`` in; it is told within some seconds."""
        with self._lock:
            self._progress.note(event)

    def close(self, change: Callable[[TrainingProgress], None] | None = None) -> None:
        """Tell the last, after ``change``, and end. Takes some seconds, and up to ``patience`` if nobody listens."""
        with self._lock:
            if change is not None:
                change(self._progress)
        self._closing.set()
        self._thread.join(self._patience + self._seconds + 2 * _TIMEOUT)

    def _work(self) -> None:
        last: float | None = None
        while True:
            closing = self._closing.is_set()
            began = time.monotonic()
            has_tried = self._send()
            if closing:
                last = last or began + (self._patience if self._is_final() else 0)
                if self._is_sent() or self._is_gone or began >= last:
                    return
            # What was not told is told soon; what was told, or could not be, has its time.
            if not closing:
                self._closing.wait(self._seconds if has_tried else 1.0)
            if has_tried and self._closing.is_set():
                time.sleep(max(0.0, self._seconds - (time.monotonic() - began)))

    def _is_final(self) -> bool:
        """Whether the run is over, rather than stopped to be continued."""
        status = self._progress.status()
        return status.failure is not None or status.outputs is not None

    def _is_sent(self) -> bool:
        with self._lock:
            return self._progress.status().to_wire() == self._sent

    def _send(self) -> bool:
        with self._lock:
            status = self._progress.status().to_wire()
        # A new driver waits until it has something to say: its first word replaces all that an earlier one said.
        if status == self._sent or not (status.get("stages") or status.get("failure") or status.get("outputs")):
            return False
        try:
            self._patch(status)
        except Exception as error:  # noqa: BLE001 -- whatever it is, training goes on
            self._is_gone = getattr(error, "status", None) in _GONE
            _log.warning("status not written", error=error_message(error)[:300])
            return True
        self._sent = status
        return True


class StatusObserver:
    """An observer that also tells the API server."""

    def __init__(self, observer: Observer, writer: StatusWriter) -> None:
        self._observer = observer
        self._writer = writer

    def emit(self, event: Event) -> None:
        """Hand on ``event``."""
        self._writer.record(event)
        self._observer.emit(event)

    def stop_requested(self) -> bool:
        """As the other observer says."""
        return self._observer.stop_requested()

    def end(self, how: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """As the other observer does."""
        self._observer.end(how, problems)

    def ended(self) -> bool:
        """As the other observer says."""
        return self._observer.ended()

    def move_on(self, where: str) -> bool:
        """As the other observer says."""
        return self._observer.move_on(where)
