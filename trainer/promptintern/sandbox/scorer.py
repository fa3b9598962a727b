"""Lets a user's own scorer give numbers to answers, in processes that can use only little of the machine.

A process scores many rows, because a scorer may take long to load. If it fails on a row or takes too long, it is ended,
and a new one goes on with the next row.
"""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptintern_api.metrics import Scorer
from promptintern_api.quantity import parse_quantity

from promptintern.errors import UserError
from promptintern.sandbox.process import SYSTEM_FOLDERS, Isolation

FIELD = "spec.evaluation.scorer"
_CHILD = Path(__file__).with_name("scorer_child.py")
_LOAD_SECONDS = 120.0
"""The longest time that loading a scorer may take."""
_MAX_LINE, _MAX_MESSAGE = 4096, 300
_PROGRAM_FOLDERS = ("/usr", "/bin", "/opt", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
"""What a program needs besides the folders of shared libraries."""
_FILES, _FILE_BYTES, _STACK_BYTES = 256, 32 * 2**20, 8 * 2**20
_LARGEST = 100.0


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """What a scorer gets: a row and an answer to it."""

    query: str
    answers: Sequence[str]
    """The accepted answers."""
    prediction: str


class ScorerFault(Exception):  # noqa: N818 -- it is about one row, and the next one goes on
    """Raised if a scorer gave no number to a row. The text is the scorer's own or that of the system."""


def score_rows(rows: Sequence[ScoredRow], settings: Scorer, isolation: Isolation) -> list[float | None]:
    """Return the number of each row, or None for a row on which the scorer failed. One process runs on each core."""
    workers = min(len(os.sched_getaffinity(0)), max(1, len(rows)))

    def score(first: int) -> list[float | None]:
        found: list[float | None] = []
        with ScorerProcess(settings, isolation) as process:
            for row in rows[first::workers]:
                try:
                    found.append(process.score(row))
                except ScorerFault:
                    found.append(None)
        return found

    numbers: list[float | None] = [None] * len(rows)
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="scorer") as threads:
        for first, found in enumerate(threads.map(score, range(workers))):
            numbers[first::workers] = found
    return numbers


def check_scorer(row: ScoredRow, settings: Scorer, isolation: Isolation) -> None:
    """Check that the scorer gives a number to ``row``, whose prediction is an accepted answer.

    Raises:
        UserError: if it does not.
    """
    with ScorerProcess(settings, isolation) as process:
        try:
            process.score(row)
        except ScorerFault as fault:
            raise UserError.at(
                FIELD,
                f"gave no number to the first held-out row with its own accepted answer as the prediction: {fault}",
            ) from None


class ScorerProcess:
    """A process that scores rows, which is started when the first row comes, and again after a fault."""

    def __init__(self, settings: Scorer, isolation: Isolation) -> None:
        self._settings, self._isolation = settings, isolation
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""
        self._answers = -1
        self._buffer = b""

    def __enter__(self) -> "ScorerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def score(self, row: ScoredRow) -> float:
        """Return the number of ``row``.

        Raises:
            ScorerFault: if there is none.
        """
        try:
            if self._process is None:
                self._start()
            return self._number(row)
        except ScorerFault:
            self._stop()
            raise

    def _number(self, row: ScoredRow) -> float:
        self._send(asdict(row))
        text = self._answer(self._settings.timeout_seconds)
        try:
            number = float(text)
        except ValueError:
            raise ScorerFault(text.removeprefix("error: ") if text.startswith("error: ") else f"{text!r}") from None
        if not 0 <= number <= _LARGEST:
            raise ScorerFault(f"the number is {number}, which is not from 0 to 100")
        return number

    def _start(self) -> None:
        self._folder, self._buffer = tempfile.mkdtemp(prefix="promptintern-scorer-"), b""
        command = self._settings.command
        found = None if command is None else shutil.which(command[0])
        if command is not None and found is None:
            raise ScorerFault(f"there is no program {command[0]}")
        reading, writing = os.pipe()
        try:
            with Path(self._folder, "errors").open("wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", str(_CHILD), str(writing)],
                    stdin=subprocess.PIPE,
                    stdout=writing if command is not None else subprocess.DEVNULL,
                    stderr=errors,
                    cwd=self._folder,
                    env={},
                    pass_fds=(writing,),
                    start_new_session=True,
                )
        finally:
            os.close(writing)
        self._answers = reading
        self._send(self._request(None if command is None else [str(found), *command[1:]]))
        if command is None and (text := self._answer(_LOAD_SECONDS)) != "ready":
            raise ScorerFault(text.removeprefix("error: "))

    def _request(self, command: list[str] | None) -> dict[str, Any]:
        libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        path = [str(Path(place).resolve()) for place in sys.path if place]
        files = [] if command is None else [str(Path(part).resolve()) for part in command if Path(part).is_file()]
        prefixes = [sys.prefix, sys.base_prefix]
        return {
            "entryPoint": self._settings.entry_point,
            "command": command if command is None else [*map(_absolute, command)],
            "environment": {"PATH": os.defpath, "LANG": "C.UTF-8"},
            "landlock": self._isolation.landlock > 0,
            "path": path,
            "readable": [*SYSTEM_FOLDERS, *_PROGRAM_FOLDERS, *libraries, *prefixes, *path, *files],
            "limits": {
                "AS": int(parse_quantity(self._settings.memory)),
                "FSIZE": _FILE_BYTES,
                "NOFILE": _FILES,
                "CORE": 0,
                "STACK": _STACK_BYTES,
            },
        }

    def _send(self, document: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ScorerFault(self._last_words()) from None

    def _answer(self, seconds: float) -> str:
        """Return the next line of the scorer's answers."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise ScorerFault(f"it took longer than {seconds:g} s")
                content = os.read(self._answers, _MAX_LINE)
                self._buffer += content
                if not content:
                    raise ScorerFault(self._last_words())
                if len(self._buffer) > _MAX_LINE:
                    raise ScorerFault(f"it wrote more than {_MAX_LINE:,} characters for one row")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace").strip()

    def _last_words(self) -> str:
        """Return the last line that the scorer wrote to its standard error, or how its process ended."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        lines = Path(self._folder, "errors").read_bytes().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1][:_MAX_MESSAGE] if said else f"it ended with the exit code {self._process.returncode}"

    def _stop(self) -> None:
        """End the process, and remove its folder."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            if self._process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    self._process.stdin.close()
            os.close(self._answers)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._process, self._folder, self._answers = None, "", -1


def _absolute(part: str) -> str:
    """Return an argument with the absolute path if it names a file: the scorer has a working directory of its own."""
    return str(Path(part).resolve()) if Path(part).is_file() else part
