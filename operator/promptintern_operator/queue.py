"""The workqueue of jobs. One worker at a time reconciles a job, and changes that arrive together are handled once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from promptintern_operator.metrics import QUEUE_DEPTH, QUEUE_SECONDS, RECONCILES

_FIRST_BACKOFF, _LAST_BACKOFF = 0.5, 60.0
_BURST_SECONDS = 1.0
_PATIENCE_SECONDS = 10.0
_log = structlog.get_logger("promptintern.operator")


@dataclass(frozen=True, order=True)
class Key:
    """The namespace and the name of a job."""

    namespace: str
    name: str


class Workqueue:
    """A first-in, first-out queue of keys with exponential backoff for keys whose reconciliation failed.

    A key for which ``urgent`` returns True goes before the other keys, unless another key has waited more than
    ``_PATIENCE_SECONDS`` longer.
    """

    def __init__(self, urgent: Callable[[Key], bool] = lambda _: False) -> None:
        self._is_urgent = urgent
        self._urgent: dict[Key, float] = {}
        self._normal: dict[Key, float] = {}
        """The waiting keys that are not urgent, each with the time at which it was added."""
        self._busy: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Future[None]] = set()

    async def add(self, key: Key) -> None:
        """Queue ``key``. If the key is being reconciled now, it is reconciled once more afterwards."""
        async with self._changed:
            if key not in self._urgent and key not in self._normal:
                waiting = self._urgent if self._is_urgent(key) else self._normal
                waiting[key] = _now()
            self._record_depth()
            self._changed.notify()

    def add_batched(self, key: Key) -> None:
        """Queue ``key`` after a short delay, so that a burst of changes is reconciled once."""
        self.add_after(key, _BURST_SECONDS)

    def add_after(self, key: Key, seconds: float) -> None:
        """Queue ``key`` after ``seconds``, or earlier if an earlier time is already set."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        when = loop.time() + max(seconds, 0.0)
        if timer is not None:
            if timer.when() <= when:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(when, self._due, key)

    def forget(self, key: Key) -> None:
        """Drop the timer and the failure count of a job that no longer exists."""
        handle = self._timers.pop(key, None)
        if handle is not None:
            handle.cancel()
        self._failures.pop(key, None)

    async def work(self, reconcile: Callable[[Key], Awaitable[None]]) -> None:
        """Reconcile one key after another, forever."""
        while True:
            key = await self._take()
            try:
                await reconcile(key)
            except Exception as error:  # noqa: BLE001 -- a retry may succeed after any error
                RECONCILES.labels(result="failed").inc()
                failures = self._failures.get(key, 0)
                self._failures[key] = failures + 1
                delay = min(_FIRST_BACKOFF * 2 ** min(failures, 10), _LAST_BACKOFF)
                _log.warning(
                    "reconcile failed",
                    namespace=key.namespace,
                    job=key.name,
                    error=str(error),
                    retry_in=delay,
                    exc_info=failures == 5,
                )
                self.add_after(key, delay)
            else:
                self._failures.pop(key, None)
            finally:
                async with self._changed:
                    self._busy.discard(key)
                    self._changed.notify_all()

    async def _take(self) -> Key:
        async with self._changed:
            while True:
                free = self._next()
                if free is not None:
                    waiting = self._urgent if free in self._urgent else self._normal
                    QUEUE_SECONDS.observe(_now() - waiting.pop(free))
                    self._record_depth()
                    self._busy.add(free)
                    return free
                await self._changed.wait()

    def _next(self) -> Key | None:
        urgent = next((key for key in self._urgent if key not in self._busy), None)
        other = next((key for key in self._normal if key not in self._busy), None)
        if urgent is None or other is None:
            return urgent or other
        return other if self._normal[other] + _PATIENCE_SECONDS < self._urgent[urgent] else urgent

    def _record_depth(self) -> None:
        QUEUE_DEPTH.set(len(self._urgent) + len(self._normal))

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        task = asyncio.ensure_future(self.add(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _now() -> float:
    return asyncio.get_running_loop().time()
