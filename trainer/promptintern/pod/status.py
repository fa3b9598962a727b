"""Writing the job's ``status.training`` by server-side apply, a few times a minute."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from promptintern_api import PromptInternJob
from promptintern_api.apply import apply_body
from promptintern_api.contract import TRAINER_FIELD_MANAGER
from promptintern_api.kind import GROUP, PLURAL, VERSION

from promptintern.log import get_logger
from promptintern.pipeline.events import Ending, Event, Observer
from promptintern.pod.progress import TrainingProgress
from promptintern.pod.unknown_fields import Patch, dropping_unknown_fields, error_message

SECONDS_BETWEEN = 10.0
PATIENCE = 60.0
"""The number of seconds for which the last write is retried; once the driver has ended, nothing writes the status."""
_TIMEOUT = 10.0
_GONE = (401, 404)
"""The HTTP status codes after which writing is pointless, because the job or this pod's identity no longer exists. 403
is not one of them: a pod may write only after the operator has observed it, which takes a while if no operator was
running."""
_log = get_logger("promptintern.pod")


def patch_of(job: PromptInternJob) -> Patch:
    """Return a function that applies the job's ``status.training`` with the pod's own token.

    Raises:
        kubernetes.config.ConfigException: if this process is not in a pod with a token.
    """
    from kubernetes import client, config

    config.load_incluster_config()
    api = client.ApiClient()
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{job.metadata.namespace}/{PLURAL}/{job.metadata.name}/status"
    meta = {"name": job.metadata.name, "namespace": job.metadata.namespace, "uid": job.metadata.uid}

    def patch(training: dict[str, Any]) -> None:
        status = {"training": training}
        request = api.param_serialize(
            "PATCH",
            path,
            query_params=[("fieldManager", TRAINER_FIELD_MANAGER), ("force", "true")],
            header_params={"Accept": "application/json", "Content-Type": "application/apply-patch+yaml"},
            body=apply_body({"apiVersion": job.api_version, "kind": job.kind, "metadata": meta, "status": status}),
            auth_settings=["BearerToken"],
        )
        answer = api.call_api(*request, _request_timeout=_TIMEOUT)
        answer.read()
        api.response_deserialize(answer, {"200": "object"})

    return patch


_TOLD = ("stages", "answering", "failure", "outputs")
"""The fields of which a status must have one before it is written."""


class StatusWriter:
    """A writer that applies the newest status in its own thread, at most once every ``seconds``.

    Training never waits for the API server, and no failure of the API server ends a run. A status that cannot be
    written is dropped, and the next status replaces it.

    Args:
        progress: The status to write, which changes with each event.
        patch: The function that applies ``status.training``.
        seconds: The minimum time between two requests.
        patience: The time in seconds for which ``close`` retries the last status of a run that is over.
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
        """Apply ``event`` to the status; the thread writes the new status within some seconds."""
        with self._lock:
            self._progress.note(event)

    def close(self, change: Callable[[TrainingProgress], None] | None = None) -> None:
        """Apply ``change`` to the status, write the status a last time, and end the thread.

        If the run is over, a failed write is retried for ``patience`` seconds.
        """
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
            # If no request was sent, look for a change again soon; between two requests, wait the full time.
            if not closing:
                self._closing.wait(self._seconds if has_tried else 1.0)
            if has_tried and self._closing.is_set():
                time.sleep(max(0.0, self._seconds - (time.monotonic() - began)))

    def _is_final(self) -> bool:
        """Return whether the run has finished or failed, rather than stopped until a later attempt continues it."""
        status = self._progress.status()
        return status.failure is not None or status.outputs is not None

    def _is_sent(self) -> bool:
        with self._lock:
            return self._progress.status().to_wire() == self._sent

    def _send(self) -> bool:
        with self._lock:
            status = self._progress.status().to_wire()
        # A new driver writes nothing until it has something to tell, because its status replaces the previous one. It
        # generates answers before the first stage only if no earlier driver has trained a stage.
        if status == self._sent or not any(status.get(name) for name in _TOLD):
            return False
        try:
            self._patch(status)
        except Exception as error:  # noqa: BLE001 -- training continues, whatever the error
            self._is_gone = getattr(error, "status", None) in _GONE
            _log.warning("status not written", error=error_message(error)[:300])
            return True
        self._sent = status
        return True


class StatusObserver:
    """An observer that wraps another observer and also writes events to the job's status."""

    def __init__(self, observer: Observer, writer: StatusWriter) -> None:
        self._observer = observer
        self._writer = writer

    def emit(self, event: Event) -> None:
        """Record ``event``, and pass it on to the wrapped observer."""
        self._writer.record(event)
        self._observer.emit(event)

    def stop_requested(self) -> bool:
        """Return whether the wrapped observer asks the run to save and stop."""
        return self._observer.stop_requested()

    def record_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Pass the kind of ending of the run, and its problems, on to the wrapped observer."""
        self._observer.record_ending(kind, problems)

    def has_ending(self) -> bool:
        """Return whether the wrapped observer has recorded an ending."""
        return self._observer.has_ending()

    def record_saved(self, where: str) -> bool:
        """Pass ``where`` on to the wrapped observer, and return its result."""
        return self._observer.record_saved(where)
