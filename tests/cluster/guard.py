"""A guard process that ends what its starter has started once the starter has ended, however it ended.

Finalizers and `atexit` do not run in a process that is killed: by SIGKILL, by SIGTERM or SIGHUP without a handler, or
by pytest-xdist, which kills its workers. The guard is a second process in a separate session. It reads from a pipe
whose only writer is this process, so it sees the end of the pipe when this process ends. It then carries out the
requests that this process has sent, the latest one first.

Requests are lines of JSON: the pid of a process to kill, or a function of a module with its arguments.
"""

import contextlib
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from tests.cluster.paths import cache
from tests.cluster.processes import start_time

_ROOT = Path(__file__).parents[2]
# The shell writes its own pid into the pipe, which is its standard input, and becomes the program: whatever happens to
# this process in the meantime, the guard knows the program before it runs.
_REGISTER = 'echo $$ >&0; exec "$@" </dev/null'


def start(argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
    """Start a program that ends with this process; ``options`` are those of ``Popen``, but its input is empty."""
    return subprocess.Popen(["/bin/sh", "-c", _REGISTER, "sh", *argv], stdin=_pipe(), **options)


def kill_at_exit(pid: int) -> None:
    """Kill a process, which runs now, once this process has ended."""
    _request(pid)


def call_at_exit(function: Callable[..., object], *arguments: str) -> None:
    """Call a function of a module in the guard's process once this process has ended.

    Unlike `atexit`, this includes processes that are killed. It also includes orderly exits, after which ``function``
    must find nothing left to do.
    """
    _request([function.__module__, function.__qualname__, list(arguments)])


def _request(line: object) -> None:
    _pipe().write(json.dumps(line).encode() + b"\n")  # unbuffered, and lines are short enough to stay whole


@functools.cache
def _pipe() -> IO[bytes]:
    """The writing end of the guard's pipe; starts the guard at the first call."""
    log = cache() / "guard.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        guard = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.guard"],
            cwd=_ROOT,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    guard.returncode = 0  # it outlives this process, which therefore never waits for it
    assert guard.stdin is not None
    return guard.stdin


def _forget_in_child() -> None:
    """Close the pipe in a forked child, which would otherwise hold it open after its parent has ended."""
    if _pipe.cache_info().currsize:
        _pipe().close()
        _pipe.cache_clear()


def _work(requests: IO[bytes]) -> None:
    """Read requests until the pipe is closed, then carry them out."""
    calls: list[Callable[[], object]] = []
    for line in requests:
        request: Any = json.loads(line)
        if isinstance(request, int):
            calls.append(functools.partial(_kill, request, start_time(request)))
        else:
            calls.append(functools.partial(_call, *request))
    for call in reversed(calls):
        try:
            call()
        except Exception:  # noqa: BLE001 -- the other requests must be carried out as well
            traceback.print_exc()


def _kill(pid: int, started: str | None) -> None:
    if started is not None and start_time(pid) == started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _call(module: str, name: str, arguments: list[str]) -> None:
    getattr(importlib.import_module(module), name)(*arguments)


os.register_at_fork(after_in_child=_forget_in_child)

if __name__ == "__main__":
    _work(sys.stdin.buffer)
