"""A process that holds a user's scorer, and the exchange of rows and numbers with it.

The process is not trusted. What it writes is bounded, every exchange has a deadline, nothing that it leaves in its
folder is opened, and a line that nobody asked for is a fault, because it would be taken for the number of another row.
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
from io import BufferedRandom
from pathlib import Path
from typing import Any

from promptintern_api.metrics import Scorer
from promptintern_api.quantity import parse_quantity

from promptintern.sandbox.process import SYSTEM_FOLDERS, Isolation, folder_size, remove_folder

_CHILD = Path(__file__).with_name("scorer_child.py")
_LOAD_SECONDS = 120.0
"""The longest time that loading a scorer may take."""
_POLL_SECONDS = 0.25
_MAX_LINE, _MAX_MESSAGE, _CHUNK = 4096, 300, 2**16
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


class NotLoaded(ScorerFault):
    """Raised if a scorer could not be started or loaded."""


class ScorerProcess:
    """A process that scores rows, which is started when the first row comes, and again after a fault."""

    def __init__(self, settings: Scorer, isolation: Isolation) -> None:
        self._settings, self._isolation = settings, isolation
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""
        self._answers = -1
        self._errors: BufferedRandom | None = None
        self._buffer = b""
        self._has_answered = False

    def __enter__(self) -> "ScorerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def score(self, row: ScoredRow) -> float:
        """Return the number of ``row``.

        Raises:
            ScorerFault: if there is none.
        """
        if self._process is None:
            self.start()
        try:
            number = self._number(row)
        except ScorerFault:
            self._stop()
            raise
        self._has_answered = True
        return number

    def start(self) -> None:
        """Start the process, and load the scorer if it is an entry point.

        Raises:
            NotLoaded: if this fails.
        """
        try:
            self._start()
        except (ScorerFault, OSError) as fault:
            self._stop()
            raise NotLoaded(str(fault)) from None

    def _number(self, row: ScoredRow) -> float:
        settings = self._settings
        name = secrets.token_hex(8)
        row_document = {"query": row.query, "answers": list(row.answers), "prediction": row.prediction}
        if settings.command is None:
            text = self._exchange({"id": name, "row": row_document}, settings.timeout_seconds)
            told, _, text = text.partition(" ")
            if told != name:
                raise ScorerFault("it wrote to the trainer's pipe itself")
        else:
            # A command says nothing when it is loaded, so the first row has the time for this, too.
            more = 0.0 if self._has_answered else _LOAD_SECONDS
            text = self._exchange(row_document, settings.timeout_seconds + more)
        try:
            number = float(text)
        except ValueError:
            raise ScorerFault(text.removeprefix("error: ") if text.startswith("error: ") else f"{text!r}") from None
        if not 0 <= number <= _LARGEST:
            raise ScorerFault(f"the number is {number}, which is not from 0 to 100")
        return number

    def _start(self) -> None:
        self._buffer, self._has_answered = b"", False
        command = self._settings.command
        found = None if command is None else shutil.which(command[0])
        if command is not None and found is None:
            raise ScorerFault(f"there is no program {command[0]}")
        self._folder = tempfile.mkdtemp(prefix="promptintern-scorer-")
        # This file is outside of the folder, where the scorer could put a link in its place.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by _stop
        reading, writing = os.pipe()
        self._answers = reading
        os.set_blocking(reading, False)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(_CHILD), str(writing)],
                stdin=subprocess.PIPE,
                stdout=writing if command is not None else subprocess.DEVNULL,
                stderr=self._errors,
                cwd=self._folder,
                env={},
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        request = self._request(None if command is None else [str(found), *command[1:]])
        if command is not None:
            self._send(request, time.monotonic() + _LOAD_SECONDS, _LOAD_SECONDS)
        elif (text := self._exchange(request, _LOAD_SECONDS)) != "ready":
            raise ScorerFault(text.removeprefix("error: "))

    def _request(self, command: list[str] | None) -> dict[str, Any]:
        libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        path = python_path()
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

    def _exchange(self, document: dict[str, Any], seconds: float) -> str:
        """Send a document as a line, and return the one line that answers it."""
        deadline = time.monotonic() + seconds
        self._read()
        if self._buffer:
            raise ScorerFault("it wrote a line before it got the next row")
        self._send(document, deadline, seconds)
        while b"\n" not in self._buffer:
            self._wait(deadline, seconds, writing=False)
        line, _, rest = self._buffer.partition(b"\n")
        if rest:
            raise ScorerFault("it wrote more than one line for a row")
        self._buffer = b""
        return line.decode(errors="replace").strip()

    def _send(self, document: dict[str, Any], deadline: float, seconds: float) -> None:
        assert self._process is not None and self._process.stdin is not None
        content = memoryview(json.dumps(document).encode() + b"\n")
        pipe = self._process.stdin.fileno()
        while content:
            try:
                content = content[os.write(pipe, content[:_CHUNK]) :]
            except BlockingIOError:
                self._wait(deadline, seconds, writing=True)
            except BrokenPipeError:
                raise ScorerFault(self._last_words()) from None

    def _wait(self, deadline: float, seconds: float, *, writing: bool) -> None:
        """Wait until the scorer has written something or, if ``writing`` is set, can take more of the input."""
        assert self._process is not None and self._process.stdin is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            if writing:
                selector.register(self._process.stdin, selectors.EVENT_WRITE)
            while not selector.select(_POLL_SECONDS):
                if time.monotonic() > deadline:
                    raise ScorerFault(f"it took longer than {seconds:.3g} s")
                if folder_size(self._folder) > _FILE_BYTES:
                    raise ScorerFault(f"it wrote files of more than {_FILE_BYTES // 2**20} MiB")
        if self._read():
            raise ScorerFault(self._last_words())
        if time.monotonic() > deadline:
            raise ScorerFault(f"it took longer than {seconds:.3g} s")

    def _read(self) -> bool:
        """Read what the scorer has written, and return whether it has closed its end.

        Raises:
            ScorerFault: if it has written too much.
        """
        while True:
            try:
                content = os.read(self._answers, _MAX_LINE)
            except BlockingIOError:
                return False
            if not content:
                return b"\n" not in self._buffer
            self._buffer += content
            if len(self._buffer) > _MAX_LINE:
                raise ScorerFault(f"it wrote more than {_MAX_LINE:,} characters for one row")

    def _last_words(self) -> str:
        """Return the last line that the scorer wrote to its standard error, or how its process ended."""
        assert self._process is not None and self._errors is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        size = os.fstat(self._errors.fileno()).st_size
        content = os.pread(self._errors.fileno(), _MAX_LINE, max(0, size - _MAX_LINE))
        said = [line.strip() for line in content.decode(errors="replace").split("\n") if line.strip()]
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
        if self._answers >= 0:
            os.close(self._answers)
        if self._errors is not None:
            self._errors.close()
        if self._folder:
            remove_folder(self._folder)
        self._process, self._folder, self._answers, self._errors = None, "", -1, None


def python_path() -> list[str]:
    """Return the folders in which a scorer's modules are looked for.

    These are the folders of this process, but not the working directory and the user's home unless PYTHONPATH names
    them, because a scorer can read all files in these folders.
    """
    named = {str(Path(place).resolve()) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place}
    private = {str(Path.cwd()), str(Path(os.environ.get("HOME") or "/").resolve()), "/"}
    found = dict.fromkeys(str(Path(place).resolve()) for place in sys.path if place)
    return [place for place in found if place in named or place not in private]


def _absolute(part: str) -> str:
    """Return an argument with the absolute path if it names a file: the scorer has a working directory of its own."""
    return str(Path(part).resolve()) if Path(part).is_file() else part
