"""Warm processes, which have imported a run's modules before they start, since imports take most of a tiny run's time.

They are forked from a server that has imported everything and done nothing else. A process has the part of Popen's
interface that tests of killed runs use. Its interpreter is not shut down at the end, as is usual for children of
multiprocessing, so the tests on Ray (test_workers, some of test_invariance) start real commands instead.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.cluster import guard

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class WarmProcess:
    """``promptintern ARGUMENTS`` in a forked process; ``environment`` replaces the process's."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        handle, name = tempfile.mkstemp(suffix=".txt")
        os.close(handle)
        self._output = Path(name)
        self._process = _server().Process(target=_command, args=(list(arguments), dict(environment), name), daemon=True)
        self._process.start()
        guard.kill_at_exit(self.pid)

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The return code as Popen has it: minus the number of the signal that ended it, or None if it still runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the return code, or None if it still runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send the signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Wait for the end, and return standard output and error in one text."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("promptintern", timeout, self._output.read_text())
        text = self._output.read_text()
        self._output.unlink(missing_ok=True)
        return text, None


@cache
def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.imports"])
    before = dict(os.environ)
    os.environ.update(_ONE_THREAD)  # libraries read these when they are loaded
    try:
        context.Process(target=int).start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _command(arguments: list[str], environment: dict[str, str], output: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with Path(output).open("wb", buffering=0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    sys.argv = ["promptintern", *arguments]
    from promptintern.cli.app import main

    main()
