"""Reads tables of text: CSV (RFC 4180) and TSV, whose first line names the columns."""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, Any

from promptintern.rows.jsonl import MAX_LINE_BYTES, read_lines
from promptintern.rows.problems import ProblemList

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_OTHER_DELIMITERS = {
    ",": "a comma; set format: CSV",
    "\t": "a tab; set format: TSV",
    ";": "a semicolon; save the file with commas",
    "|": "a vertical bar; save the file with commas",
}
"""What may separate the columns of a table of another kind, in words, and what to do."""


def delimiter_of(kind: str) -> str:
    """Return the delimiter of ``csv`` or ``tsv`` files."""
    return _DELIMITERS[kind]


def read_table(
    file: IO[bytes], problems: ProblemList, *, file_name: str, delimiter: str, lists: Sequence[str | None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of the line at which each record begins, and the record as texts by column.

    A field in quotes may hold delimiters and line breaks, and doubled quotes stand for one. A record with more or fewer
    fields than the first line is a problem at its line.

    Args:
        file: The file, in UTF-8, with or without a byte order mark.
        problems: The problems found so far, to which new ones are added.
        file_name: The name of the file, for problems.
        delimiter: The character between two fields.
        lists: The columns that hold lists: a field that begins with ``[`` is read as JSON.
    """
    lines = _Lines(file, problems, file_name)
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        first = lines.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(f"{file_name}:{first}", f"is not a valid record: {error}")
            return  # where the next record begins is unknown
        if not fields:
            continue  # an empty line
        if names is None:
            names = [name.strip() for name in fields]
            if wrong := _wrong_delimiter(names, delimiter):
                problems.add(f"{file_name}:{first}", wrong)
                return
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                problems.add(f"{file_name}:{first}", f"names the column {twice[0]!r} twice")
                return
            continue
        if len(fields) != len(names):
            problems.add(
                f"{file_name}:{first}",
                f"has {len(fields)} fields, and the first line names {len(names)} columns; put fields that hold the "
                "delimiter or line breaks into double quotes",
            )
            continue
        record = dict(zip(names, fields, strict=True))
        yield first, {name: _value(text, is_list=name in lists) for name, text in record.items()}


def _wrong_delimiter(names: Sequence[str], delimiter: str) -> str | None:
    """Return what is wrong if the only column's name has another delimiter in it, or None if nothing is."""
    if len(names) > 1:
        return None
    for mark, words in _OTHER_DELIMITERS.items():
        if mark != delimiter and mark in names[0]:
            return f"names one column, {names[0][:60]!r}, which looks like several that are separated by {words}"
    return None


def _value(text: str, *, is_list: bool) -> Any:
    if is_list and text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text  # the problem is that it is no list
    return text


class _Lines:
    """The lines of a file as text, each with its line end. A line that is no text ends the file with a problem."""

    def __init__(self, file: IO[bytes], problems: ProblemList, file_name: str) -> None:
        self.number = 0
        self._lines = self._read(file, problems, file_name)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        return next(self._lines)

    def _read(self, file: IO[bytes], problems: ProblemList, file_name: str) -> Iterator[str]:
        for number, line in read_lines(file, problems, file_name=file_name, keep_all=True):
            self.number = number
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                problems.add(
                    f"{file_name}:{number}",
                    f"is not UTF-8 text (byte {error.start + 1} of the line is 0x{line[error.start]:02x}); save the "
                    "file as UTF-8",
                )
                return
