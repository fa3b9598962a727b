"""Writing to storage in the background while training continues."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_JOIN_SECONDS = 5.0
"""The number of seconds for which a writer whose block has failed waits for the task that is still running."""


class BackgroundWriter:
    """A writer that runs tasks one after another on a separate thread, with at most one task waiting.

    An exception in a task is raised once, by the caller's next ``submit``, ``poll``, ``drain`` or ``close``. A
    writer is a context manager: at the end of the block, it waits for all tasks. If the block raises an exception, it
    drops the waiting task and gives the running task a few seconds to end.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: Callable[[], object] | None = None
        self._waiting_replaceable = False
        self._running = False
        self._closed = False
        self._error: BaseException | None = None
        # A daemon thread does not keep a failed process alive if the storage hangs.
        self._thread = threading.Thread(target=self._work, name="storage-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], object], *, replaceable: bool = False) -> None:
        """Run the task ``work`` on the thread as soon as the thread is free.

        Block while another task is waiting, unless both tasks are replaceable. In that case, ``work`` replaces the
        waiting task, which never runs.
        """
        with self._changed:
            self._raise_error()
            if self._closed:
                raise RuntimeError("the writer is closed")
            if not (replaceable and self._waiting_replaceable):
                self._changed.wait_for(lambda: self._waiting is None or self._error is not None)
                self._raise_error()
            self._waiting, self._waiting_replaceable = work, replaceable
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether no task is running or waiting."""
        with self._changed:
            return not self._running and self._waiting is None

    def poll(self) -> None:
        """Raise the exception of a failed task, unless it was already raised."""
        with self._changed:
            self._raise_error()

    def drain(self) -> None:
        """Wait until all submitted tasks have run or one has failed, and raise the exception of a failed task."""
        with self._changed:
            self._changed.wait_for(lambda: (not self._running and self._waiting is None) or self._error is not None)
            self._raise_error()

    def close(self, *, wait: bool = True) -> None:
        """Wait for all tasks, and end the thread.

        With ``wait=False``, drop the waiting task, and wait only a few seconds for the running task.

        If a thread frees tensors while the interpreter shuts down, the process ends with SIGABRT. Therefore, the thread
        is joined even with ``wait=False``, and left running only if the task hangs.
        """
        with self._changed:
            self._closed = True
            if not wait:
                self._waiting = None
            self._changed.notify_all()
        self._thread.join(None if wait else _JOIN_SECONDS)
        if wait:
            self.poll()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(wait=error is None)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._waiting is None:
                    return
                work, self._waiting, self._waiting_replaceable = self._waiting, None, False
                self._running = True
                self._changed.notify_all()
            error: BaseException | None = None
            try:
                work()
            except BaseException as raised:  # noqa: BLE001 -- handed to the caller's thread
                error = raised
            # Free what the task references, such as a copy of all parameters, before reporting that it is done.
            del work
            with self._changed:
                self._running = False
                self._error = self._error or error
                del error
                self._changed.notify_all()
