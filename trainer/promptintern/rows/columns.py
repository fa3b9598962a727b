"""The columns of a file: whether they hold a chat, which of them are missing, and which hold text that nobody reads."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from promptintern_api.data import Columns, DataFormat

CHAT_COLUMNS = ("messages", "conversations")
"""The columns that hold the turns of a chat: OpenAI's and ShareGPT's."""
_NAMES_A_ROW = re.compile(r"(?:^|_)(?:id|uuid|index|url|split|lang|language|date|time|timestamp)$", re.IGNORECASE)
"""The names of columns that tell where a row comes from, and not what is asked."""
_MAY_NAME_A_ROW = re.compile(r"^$|^unnamed: \d+$|(?:^|_)source$", re.IGNORECASE)
"""The names of columns that tell where a row comes from, unless they hold several words. pandas writes its index into a
column without a name, which it calls ``Unnamed: 0`` when it reads the file.
"""
_MAX_LISTED = 5
_MAX_NAMES = 10


def chat_column(columns: Collection[str]) -> str | None:
    """Return the column that holds the turns of a chat, or None if none does."""
    return next((name for name in CHAT_COLUMNS if name in columns), None)


def is_read_as_chat(names: Collection[str], columns: Columns, data_format: DataFormat) -> bool:
    """Return whether a file with the columns ``names`` is read as a chat.

    It is if the format says so. If the format leaves it open, a file with the turns of a chat is read as a chat, unless
    it has the column of the query, or the job sets the column of the query or the answer to another name than the
    default.
    """
    if data_format not in (DataFormat.AUTO, DataFormat.PARQUET):
        return data_format is DataFormat.CHAT
    default = Columns()
    is_set = (columns.query, columns.answer) != (default.query, default.answer)
    return chat_column(names) is not None and columns.query not in names and not is_set


def describe_missing(column: str, names: Collection[str], setting: str) -> str:
    """Return the message that a record or a file with the columns ``names`` has no ``column``.

    Args:
        setting: The field of the job that names the column.
    """
    close = get_close_matches(column, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if {"instruction", "output"} <= set(names):
        hint = (
            "these look like Alpaca rows: set columns: {query: instruction, answer: output}, and put a text in "
            "'input' that belongs to the question into 'instruction'. "
        )
    elif chat := chat_column(names):
        hint = f"to read the chat in {chat!r}, set format: Chat. "
    listed = ", ".join(map(repr, list(names)[:_MAX_NAMES])) + (", ..." if len(names) > _MAX_NAMES else "")
    return f"has no column {column!r}; {hint}Columns: {listed or 'none'}. Set {setting} to the right one"


def may_be_unused(name: str) -> bool:
    """Return whether text in the column ``name`` may be a part of what is asked, and does not name the row."""
    return not _NAMES_A_ROW.search(name)


@dataclass(kw_only=True)
class UnusedTexts:
    """The columns that every record has, that hold text in some, and that the job does not use."""

    records: int = 0
    _columns: set[str] = field(default_factory=set)
    """The columns of the last record."""
    _names: set[str] | None = None
    """The unused columns that all records so far have, or None before the first record."""
    _filled: Counter[str] = field(default_factory=Counter)
    """The number of records in which each column holds text."""
    _questions: set[str] = field(default_factory=set)
    """The columns whose text may be a part of what is asked."""

    def note(self, record: Mapping[str, Any], used: Collection[str | None]) -> None:
        """Record which columns besides ``used`` the record has, and which of them hold text."""
        self.records += 1
        if self._names is None or record.keys() != self._columns:  # most records have the columns of the record before
            self._columns = set(record)
            names = {name for name in record if name not in used and may_be_unused(name)}
            self._names = names if self._names is None else self._names & names
        for name in self._names:
            value = record[name]
            if isinstance(value, str) and value.strip():
                self._filled[name] += 1
                if name not in self._questions and (not _MAY_NAME_A_ROW.search(name) or len(value.split()) > 1):
                    self._questions.add(name)

    def warnings(self, field_name: str, question: str) -> list[str]:
        """Return a warning that names the columns, or nothing if there are none.

        Args:
            field_name: The field of the job with the data source.
            question: The place of the question in a row.
        """
        names = sorted(self._questions & (self._names or set()))[:_MAX_LISTED]
        if not names:
            return []
        listed = ", ".join(repr(name[:60]) if name else "without a name" for name in names)
        rows = "in every row" if all(self._filled[name] == self.records for name in names) else "in some rows"
        if len(names) == 1:
            if rows == "in some rows":
                rows = f"in {self._filled[names[0]]} of {self.records} rows"
            what, it = f"column {listed} holds text {rows} and is", "it"
        else:
            what, it = f"columns {listed} hold text {rows} and are", "them"
        return [f"{field_name}: the {what} not used; if the question needs {it}, put {it} into {question}"]
