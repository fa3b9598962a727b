"""Prints the output of all commands: lines that are never cut, and tables that fit the width of the terminal.

Texts of models, jobs, pods and data files are shown as they are: they can neither use rich's markup nor control the
terminal.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_LOG_COLUMNS = 120
"""The width of tables, in characters, if standard output is not a terminal."""
_UNLIMITED_WIDTH = 10_000


_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""The characters that control a terminal or reverse the direction of the text after them, except for line ends."""
_CONTROL_BYTES = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]"
)
"""The same characters in UTF-8, except for those that logs use in lines and progress bars (tab and carriage return)."""


class SafeConsole(Console):
    """A console that prints each text as it is, with spaces in place of control characters."""

    def __init__(self, **more: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **more)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of ``renderable`` without control characters."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_CONTROLS.sub(" ", segment.text))


def output_console() -> Console:
    """Return a console for standard output, which is ``_LOG_COLUMNS`` wide if standard output is not a terminal."""
    console = SafeConsole()
    return console if console.is_terminal else SafeConsole(width=_LOG_COLUMNS)


def print_line(text: str) -> None:
    """Print ``text`` to standard output, and flush the output."""
    SafeConsole().print(text, soft_wrap=True)
    sys.stdout.flush()


def print_error(text: str, style: str | None = None) -> None:
    """Print ``text`` to standard error."""
    SafeConsole(stderr=True).print(text, style=style, soft_wrap=True)


def printable(text: str) -> str:
    """Return ``text`` with spaces in place of all white space except line ends, and of control characters."""
    return _CONTROLS.sub(" ", re.sub(r"[^\S\n]", " ", text))


def write_lines(file: TextIO, lines: Iterable[str]) -> None:
    """Write ``lines`` to ``file``: unchanged for a program, and without control characters for a terminal."""
    for line in lines:
        file.write(f"{_CONTROLS.sub(' ', line) if file.isatty() else line}\n")


def write_log(content: bytes) -> None:
    """Write a part of a log to standard output: unchanged for a program, without control characters for a terminal."""
    sys.stdout.flush()
    sys.stdout.buffer.write(_CONTROL_BYTES.sub(b" ", content) if sys.stdout.isatty() else content)
    sys.stdout.buffer.flush()


def fitted_table(table: Table, console: Console) -> Table | Text:
    """Return ``table`` if it fits the width of ``console``, or else a text with one cell of the table per line."""
    if Measurement.get(console, console.options.update(width=_UNLIMITED_WIDTH), table).maximum <= console.width:
        return table
    return Text("\n").join(_stacked_lines(table))


def _stacked_lines(table: Table) -> Iterator[Text]:
    row_column, *other_columns = table.columns
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        yield Text(f"{row_column.header} {name}", style="bold")
        for column, cell in zip(other_columns, cells, strict=True):
            if str(cell):
                yield Text(f"  {column.header}: {cell}")
