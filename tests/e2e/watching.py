"""The first jobs of `make e2e`, and watching a job until it ends, in the foreground or in the background."""

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
"""Changes to the quickstart for the job with two workers."""

Probe = Callable[[Team, str], str]
"""A function that runs a command in a job's pods while it trains, and returns the output."""


@dataclass(kw_only=True)
class JobHistory:
    """What a team saw of a job until it ended."""

    name: str
    rows: list[Row] = field(default_factory=list)
    """Rows of `kubectl get pij`, one for each change."""
    workers: set[str] = field(default_factory=set)
    """Names of its worker pods."""
    probe_outputs: list[str] = field(default_factory=list)
    """Outputs of the probes, in their order."""


def watch_job(team: Team, name: str, probes: Sequence[Probe] = (), *, seconds: float) -> JobHistory:
    """Watch a job until it ends, and run every probe once, as soon as the job trains."""
    history = JobHistory(name=name)
    for row in team.watch(name, seconds=seconds):
        history.rows.append(row)
        history.workers |= {pod["metadata"]["name"] for pod in team.pods(name, "worker")}
        if row.phase == "Training" and not history.probe_outputs:
            history.probe_outputs = [probe(team, name) for probe in probes]
    return history


class BackgroundWatch:
    """Watches a job in a thread."""

    def __init__(self, work: Callable[[], JobHistory]) -> None:
        self._work = work
        self._history: JobHistory | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> JobHistory:
        """Wait for the job's end. Raises the error of the thread if there was one."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._history is not None
        return self._history

    def _run(self) -> None:
        try:
            self._history = self._work()
        except Exception as error:  # noqa: BLE001 -- `result` raises it
            self._error = error
