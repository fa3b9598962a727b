"""Writing beside training."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_JOIN_SECONDS = 5.0
"""How long a failed block waits for what still runs."""


class BackgroundWriter:
    """Runs one piece of work at a time on a thread of its own, with at most one more waiting.

    What a piece of work raises is raised again by the caller's next ``submit``, ``poll`` or ``drain``, once. As
    a context manager it drains at the end; if the block raises, what waits is dropped and what runs has a few
    seconds to end.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: Callable[[], object] | None = None
        self._waiting_replaceable = False
        self._running = False
        self._closed = False
        self._error: BaseException | None = None
        # A daemon, so that a hung storage does not keep a failed process alive.
        self._thread = threading.Thread(target=self._work, name="storage-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], object], *, replaceable: bool = False) -> None:
        """Run ``work`` soon.

        Waits while another piece is waiting already, unless both are ``replaceable``: then ``work`` takes its
        place, and the older one never runs.
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
        """Whether nothing runs and nothing waits."""
        with self._changed:
            return not self._running and self._waiting is None

    def poll(self) -> None:
        """Raise what went wrong since the last call, if anything did."""
        with self._changed:
            self._raise_error()

    def drain(self) -> None:
        """Wait until everything submitted has run. Raises what went wrong."""
        with self._changed:
            self._changed.wait_for(lambda: (not self._running and self._waiting is None) or self._error is not None)
            self._raise_error()

    def close(self, *, wait: bool = True) -> None:
        """End the thread: after all work, or (``wait=False``) after what runs now, waiting a few seconds at most.

        A thread that comes back from its work while the interpreter shuts down brings the process down with SIGABRT
        (it frees tensors, in C++), so a thread that is about to end is waited for, and only a hung one is left.
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
            # What the work holds (a copy of all parameters, say) is let go before anybody hears that it is done.
            del work
            with self._changed:
                self._running = False
                self._error = self._error or error
                del error
                self._changed.notify_all()
