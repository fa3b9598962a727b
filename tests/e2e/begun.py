"""The jobs that `make e2e` begins with, and watching one of them while something else is looked at."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.tenant import Row, Team

QUICKSTART, TWO = "quickstart", "two"
TWO_WORKERS: dict[str, Any] = {
    "compute": {"workers": 2, "device": "CPU"},
    "data__eval__limit": 100,
    "evaluation__arms": ["FullPrompt", "QueryOnly"],
}
"""Fields of the quickstart in which the job with two workers is another."""

Look = Callable[[Team, str], str]
"""What is asked in a job's pods while it trains, and what they say."""


@dataclass(kw_only=True)
class Seen:
    """A job that ended, as its team saw it."""

    name: str
    rows: list[Row] = field(default_factory=list)
    """Of `kubectl get pij`, as they changed."""
    workers: set[str] = field(default_factory=set)
    """Names of its worker pods."""
    said: list[str] = field(default_factory=list)
    """What the looks found, in their order."""


def follow(team: Team, name: str, looks: Sequence[Look] = (), *, seconds: float) -> Seen:
    """Watch a job until it ends, and take every look once, as soon as it trains."""
    seen = Seen(name=name)
    for row in team.watch(name, seconds=seconds):
        seen.rows.append(row)
        seen.workers |= {pod["metadata"]["name"] for pod in team.pods(name, "worker")}
        if row.phase == "Training" and not seen.said:
            seen.said = [look(team, name) for look in looks]
    return seen


class Followed:
    """A job that is being followed."""

    def __init__(self, work: Callable[[], Seen]) -> None:
        self._work = work
        self._seen: Seen | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def result(self) -> Seen:
        """Wait for the job's end; raises what went wrong on the way."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._seen is not None
        return self._seen

    def _follow(self) -> None:
        try:
            self._seen = self._work()
        except Exception as error:  # noqa: BLE001 -- raised again where the test waits
            self._error = error
