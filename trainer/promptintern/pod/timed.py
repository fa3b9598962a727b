"""A log in which each line begins with the time."""

import re
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

_HAS_TIME = re.compile(r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")
"""The beginning of a line that already has a time."""


class TimedStream:
    """A text stream that writes the time before each line, in UTC, as in ``2026-01-02T03:04:05Z``.

    A line is written once it is complete, or when the stream is flushed, so lines of several threads do not mix. A line
    that begins with a time is written as it is.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._begun: dict[int, str] = {}
        """The begun line of each thread."""

    def write(self, text: str) -> int:
        """Write the lines that ``text`` completes."""
        thread = threading.get_ident()
        with self._lock:
            *lines, rest = (self._begun.pop(thread, "") + text).split("\n")
            if rest:
                self._begun[thread] = rest
            self._write_lines(lines)
        return len(text)

    def flush(self) -> None:
        """Write the begun line of this thread, and flush the stream."""
        with self._lock:
            if begun := self._begun.pop(threading.get_ident(), ""):
                self._write_lines([begun])
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _write_lines(self, lines: list[str]) -> None:
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} "
        for line in lines:
            self._stream.write(f"{line if not line or _HAS_TIME.match(line) else now + line}\n")


def print_times() -> None:
    """Write the time before each line of standard output and of standard error, until the process ends."""
    sys.stdout, sys.stderr = TimedStream(sys.stdout), TimedStream(sys.stderr)
