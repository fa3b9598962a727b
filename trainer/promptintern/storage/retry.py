"""Retries with exponential backoff and jitter, until a deadline."""

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from promptintern_api.contract import ENV_STORAGE_DEADLINE

from promptintern.advice import is_in_job, run_again
from promptintern.errors import InfrastructureFailed, UserError
from promptintern.log import get_logger

_log = get_logger("promptintern.storage")
_T = TypeVar("_T")


_PERMANENT = (501, 505)
"""Not Implemented, and HTTP Version Not Supported: the server will give the same answer again."""


class Transient(Exception):  # noqa: N818 -- a kind of failure
    """A failure that a retry may resolve."""


def is_transient_status(status: int) -> bool:
    """Return whether a request that failed with the HTTP status ``status`` may succeed on a retry."""
    return status in (408, 425, 429) or (status >= 500 and status not in _PERMANENT)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """The rule for when to retry a failed operation. All times are in seconds."""

    deadline: float = 120.0
    """The time for which an operation is retried, counted from its first failure and not from its start."""
    first_wait: float = 0.2
    longest_wait: float = 5.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    """The function that returns a uniform random number in [0, 1)."""

    @classmethod
    def from_environment(cls) -> "RetryPolicy":
        """Return the default policy, with the deadline from the variable ``ENV_STORAGE_DEADLINE`` if it is set.

        Raises:
            UserError: if the variable is not a number of seconds.
        """
        text = os.environ.get(ENV_STORAGE_DEADLINE)
        if not text:
            return cls()
        try:
            deadline = float(text)
        except ValueError:
            deadline = -1.0
        if not 0 <= deadline < float("inf"):
            raise UserError.at(
                ENV_STORAGE_DEADLINE, f"must be a number of seconds that is not negative, but is {text!r}"
            )
        return cls(deadline=deadline)

    def run(self, work: Callable[[], _T], *, operation: str, about: Mapping[str, str]) -> _T:
        """Return the result of ``work``, which is repeated after every ``Transient`` until the deadline.

        Args:
            operation: The protocol's name for the operation, such as ``PutObject``.
            about: The target of the operation, such as bucket and key, for the log and the error message.

        Raises:
            InfrastructureFailed: if the deadline has passed; the message names ``operation`` and ``about``.
            Exception: any other exception of ``work``, immediately.
        """
        attempt, began = 0, 0.0
        while True:
            attempt += 1
            try:
                return work()
            except Transient as error:
                now = self.clock()
                began = began or now
                wait = min(self.first_wait * 2 ** min(attempt - 1, 32), self.longest_wait) * (0.5 + self.jitter() / 2)
                if now + wait - began > self.deadline:
                    hint = "" if is_in_job() else f" ({ENV_STORAGE_DEADLINE} sets how long failed requests are retried)"
                    target = ", ".join(f"{name} {value}" for name, value in about.items())
                    raise InfrastructureFailed(
                        f"storage: {operation} failed on {target}, {attempt} times in {now - began:.0f} s; the "
                        f"last error was: {error}. Check that the storage is up and reachable; {run_again()}{hint}"
                    ) from error
                _log.warning(
                    "storage: retrying",
                    operation=operation,
                    **about,
                    attempt=attempt,
                    wait_seconds=round(wait, 2),
                    error=str(error),
                )
                self.sleep(wait)
