"""Runs a program and its tests in a process of its own, which can use only little of the machine.

What holds the process: an empty environment, a folder of its own, limits, a seccomp filter (no network, no other
processes, no signals to others), and Landlock (no other files). docs/sandbox.md says what each of them stops.
"""

import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from promptintern.sandbox import landlock, seccomp
from promptintern.sandbox.verdict import Verdict

_CHILD = Path(__file__).with_name("child.py")
_POLL_SECONDS = 0.05
_MAX_REPORT = 4096
SYSTEM_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom")
"""What Python and its extension modules may need besides its own library."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use."""

    seconds: float = 5.0
    """The wall time in seconds. The limit of processor time is the next whole second."""
    memory: int = 512 * 2**20
    """The size of the address space in bytes."""
    output: int = 64 * 2**10
    """The size in bytes of standard output and standard error together."""
    files: int = 32 * 2**20
    """The size in bytes of all files in its folder together."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a program."""

    verdict: Verdict
    message: str = ""
    """The error that the program or a test raised. It is text of the program."""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """What this machine offers to hold a program."""

    filters_calls: bool
    """Whether there is a seccomp filter for this machine."""
    landlock: int
    """The version of Landlock's interface; 0 if the kernel does not have it."""

    @property
    def is_complete(self) -> bool:
        """Whether a program can reach neither the network, nor other processes, nor other files."""
        return self.filters_calls and self.landlock > 0


class NotIsolated(Exception):  # noqa: N818 -- a state of the machine
    """Raised if this machine cannot hold a program."""


def find_isolation() -> Isolation:
    """Return what this machine offers to hold a program."""
    filters_calls = seccomp.is_supported()
    return Isolation(filters_calls=filters_calls, landlock=landlock.version() if filters_calls else 0)


def run_program(
    program: str,
    tests: Sequence[str],
    *,
    setup: str = "",
    limits: Limits | None = None,
    isolation: Isolation | None = None,
) -> Outcome:
    """Run a program, then its setup code and its tests, and return how it ended.

    Args:
        program: Python source code, from anybody.
        tests: Python statements, most of them assertions. Without a test, a program that runs to its end passes.
        setup: Python statements that run before the tests, in the namespace of the program.
        limits: What the program may use.
        isolation: What holds the program. Default: all that this machine offers.

    Raises:
        NotIsolated: if there is no seccomp filter for this machine, so that nothing could be run safely.
    """
    held, bounds = isolation or find_isolation(), limits or Limits()
    if not held.filters_calls:
        raise NotIsolated("programs can be run only on Linux, on x86_64 or aarch64, where a seccomp filter holds them")
    request = {
        "program": program,
        "setup": setup,
        "tests": list(tests),
        "landlock": held.landlock > 0,
        "readable": [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *SYSTEM_FOLDERS],
        "limits": {
            "AS": bounds.memory,
            "CPU": int(bounds.seconds) + 1,
            "FSIZE": bounds.files,
            "NOFILE": 64,
            "CORE": 0,
            "STACK": 8 * 2**20,
        },
    }
    folder = tempfile.mkdtemp(prefix="promptintern-program-")
    try:
        return _run(json.dumps(request).encode(), folder, bounds)
    finally:
        remove_folder(folder)


def _run(request: bytes, folder: str, limits: Limits) -> Outcome:
    began, token = time.monotonic(), secrets.token_hex(16).encode()
    with contextlib.ExitStack() as stack:
        report, report_end = _pipe(stack)
        token_end, token_source = _pipe(stack)
        token_source.write(token)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_CHILD), str(token_end.fileno()), str(report_end.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={},
            pass_fds=(token_end.fileno(), report_end.fileno()),
            start_new_session=True,
        )
        stack.callback(_end, process)
        report_end.close()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(request)
        told, stopped = _watch(process.stdout.fileno(), report.fileno(), folder, began, limits)
        seconds = time.monotonic() - began
    if stopped is not None:
        return Outcome(verdict=stopped, seconds=seconds)
    if told == token:
        return Outcome(verdict=Verdict.PASSED, seconds=seconds)
    text = told.decode(errors="replace")
    return Outcome(verdict=_judge(text, process.returncode), message=text, seconds=seconds)


def _pipe(stack: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """Return the ends of a pipe, for reading and for writing, which are closed with ``stack``."""
    reading, writing = os.pipe()
    return stack.enter_context(FileIO(reading, "r")), stack.enter_context(FileIO(writing, "w"))


def _watch(output: int, report: int, folder: str, began: float, limits: Limits) -> tuple[bytes, Verdict | None]:
    """Read the report until the process closes it; return it, or why the process has to be ended."""
    told, written = b"", 0
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        selector.register(report, selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() - began > limits.seconds:
                return told, Verdict.TIMEOUT
            if written > limits.output or folder_size(folder) > limits.files or len(told) > _MAX_REPORT:
                return told, Verdict.OUTPUT
            for key, _ in selector.select(_POLL_SECONDS):
                content = os.read(key.fd, 2**16)
                if not content:
                    selector.unregister(key.fd)
                elif key.fd == report:
                    told += content
                else:
                    written += len(content)
    return told, None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process, wait for it, and close its pipes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _judge(report: str, status: int) -> Verdict:
    """Return the verdict on a program that did not write its token."""
    kind = report.partition(":")[0]
    if kind == "AssertionError":
        return Verdict.FAILED
    if kind == "MemoryError":
        return Verdict.MEMORY
    if report and kind not in ("SystemExit", "KeyboardInterrupt"):
        return Verdict.ERROR
    if status == -signal.SIGXCPU:
        return Verdict.TIMEOUT
    return Verdict.KILLED if status < 0 and not report else Verdict.EXITED


def folder_size(folder: str) -> int:
    """Return the size in bytes of all files below ``folder``, without following links."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{place}/{name}").st_size
    return total


def remove_folder(folder: str) -> None:
    """Remove a folder, even if the program has taken the right to enter or change its folders from everybody."""
    for place, names, _ in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
