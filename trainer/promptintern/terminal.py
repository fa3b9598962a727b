"""Prints the output of all commands: lines that are never cut, and tables that fit the width of the terminal."""

import re
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_LOG_COLUMNS = 120
"""The width of tables, in characters, if standard output is not a terminal."""
_UNLIMITED_WIDTH = 10_000


def output_console() -> Console:
    """Return a console for standard output, which is ``_LOG_COLUMNS`` wide if standard output is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_LOG_COLUMNS)


def print_line(text: str) -> None:
    """Print ``text`` unchanged to standard output, and flush the output."""
    Console(highlight=False).print(text, markup=False, soft_wrap=True)
    sys.stdout.flush()


def print_error(text: str, style: str | None = None) -> None:
    """Print ``text`` unchanged to standard error."""
    Console(stderr=True, highlight=False).print(text, style=style, markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """Return ``text`` with spaces in place of characters that would move a terminal's cursor or change its colours."""
    return re.sub(r"[^\S\n]|[\x00-\x09\x0b-\x1f\x7f-\x9f]", " ", text)


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
