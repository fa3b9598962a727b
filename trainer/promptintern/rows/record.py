"""Converts the records of a file, which map columns to values, to rows or queries, or to problems at their line."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from promptintern_api.data import Columns
from pydantic.alias_generators import to_camel

from promptintern.rows.columns import UnusedTexts, describe_missing
from promptintern.rows.problems import ProblemList
from promptintern.rows.types import Query, Row

_WITHOUT_ANSWERS = {
    "spec.data.train": ", or name the file in spec.data.queries if it has no answers",
    "spec.data.eval": ", or set spec.evaluation.reference: FullPrompt if the file has no answers",
}
"""What to do if a file has no answers, by the field of the job that names the file."""
_WITH_ANSWERS = {
    "spec.data.eval": "to compare with these answers, set spec.evaluation.reference to Answers",
    "spec.data.queries": "to learn from these answers, name the file in spec.data.train instead",
}
"""What to do if a file of queries has answers, by the field of the job that names the file."""


@dataclass(kw_only=True)
class RecordReader:
    """A reader that converts records to rows or queries by a column mapping, and collects problems."""

    columns: Columns
    field: str
    """The data source's field in the job, such as ``spec.data.train``."""
    problems: ProblemList
    labelled: bool = True
    """Whether each record has an answer, and becomes a row. If False, records become queries."""
    columns_seen: set[str] = dataclasses.field(default_factory=set)
    """The optional columns that occurred in at least one of the records read so far."""
    unread_answers: int = 0
    """The number of records read so far that have an answer although records become queries."""
    unused: UnusedTexts = dataclasses.field(default_factory=UnusedTexts)
    """The columns of the records read so far that hold text and that the job does not use."""
    unused_chat: str | None = None
    """The column of a file that holds a chat, although the file is read by its other columns."""
    has_chats: bool = False
    """Whether one of the records read so far is a chat."""

    @cached_property
    def _used(self) -> frozenset[str | None]:
        """The columns that the job names."""
        return frozenset(self.columns.model_dump().values())

    def warnings(self) -> list[str]:
        """Return the warnings about all records: columns that no record has, and answers that are not read."""
        question = "the user's message" if self.has_chats else f"the column of the query ({self.columns.query!r})"
        return [
            *self._missing_column_warnings(),
            *self._unread_answer_warnings(),
            *self.unused.warnings(self.field, question),
            *self._unused_chat_warnings(),
        ]

    def _unused_chat_warnings(self) -> list[str]:
        if self.unused_chat is None:
            return []
        return [
            f"{self.field}: the chat in the column {self.unused_chat!r} is not used, because the rows are read by "
            f"the columns {self.columns.query!r} and {self.columns.answer!r}; to read the chat, set format: Chat"
        ]

    def _unread_answer_warnings(self) -> list[str]:
        advice = _WITH_ANSWERS.get(self.field)
        if not self.unread_answers or advice is None:
            return []
        return [f"{self.field}: the answers of {self.unread_answers} rows are not read; {advice}"]

    def _missing_column_warnings(self) -> list[str]:
        """Return a warning for each optional column that the job names, perhaps misspelled, but no record has."""
        optional = ("answers", "tests", "test_setup", "id") if self.labelled else ("id",)
        named: dict[str, str | None] = {name: getattr(self.columns, name) for name in optional}
        return [
            f"{self.field}.columns.{to_camel(name)}: no row has a column {column!r}"
            for name, column in named.items()
            if column is not None and column not in self.columns_seen
        ]

    def lacks_columns(self, names: Collection[str], where: str) -> bool:
        """Return whether a required column is not in ``names``, and add a problem at ``where`` for each of them."""
        missing = [
            name
            for name in (("query", "answer") if self.labelled else ("query",))
            if getattr(self.columns, name) not in names
        ]
        for name in missing:
            message = describe_missing(getattr(self.columns, name), names, f"{self.field}.columns.{name}")
            self.problems.add(where, message + (_WITHOUT_ANSWERS.get(self.field, "") if name == "answer" else ""))
        return bool(missing)

    def read(self, record: Mapping[str, Any], *, where: str, number: int) -> Query | None:
        """Return the row or query in ``record``. If it has a problem, add the problem at ``where`` and return None."""
        problems_before = self.problems.count
        if self.lacks_columns(record.keys(), where):
            return None
        self.unused.note(record, self._used)
        query = self.read_text(record[self.columns.query], where, f"column {self.columns.query!r}")
        accepted: list[str] = []
        if self.labelled:
            column = self.columns.answer
            accepted = self._texts(record[column], where, f"column {column!r}", may_be_text=True)
        else:
            self.unread_answers += self.columns.answer in record
        return self.build_row(
            record, query=query, accepted=accepted, where=where, number=number, problems_before=problems_before
        )

    def build_row(
        self,
        record: Mapping[str, Any],
        *,
        query: str | None,
        accepted: Sequence[str],
        where: str,
        number: int,
        problems_before: int,
    ) -> Query | None:
        """Return the row with ``query``, the answers ``accepted`` and the optional columns of ``record``.

        Return a query if the records have no answers. Return None if the record has a problem, that is, if there are
        now more than ``problems_before`` problems.
        """
        names = self.columns
        if not self.labelled:
            self.columns_seen.update({names.id} & record.keys() if names.id else ())
            name = self._row_id(record, where, default=str(number))
            if self.problems.count > problems_before or query is None:
                return None
            return Query(query=query, id=name, where=where)
        optional = (names.answers, names.tests, names.test_setup, names.id)
        self.columns_seen.update(name for name in optional if name and name in record)
        further = self._optional_texts(record, names.answers, where)
        tests = self._optional_texts(record, names.tests, where)
        setup = self._code(record, names.test_setup, where)
        name = self._row_id(record, where, default=str(number))
        if self.problems.count > problems_before or query is None:
            return None
        return Row(
            query=query,
            answer=accepted[0],
            answers=tuple(dict.fromkeys([*accepted, *further])),
            id=name,
            where=where,
            tests=tuple(tests),
            test_setup=setup,
        )

    def read_text(self, value: Any, where: str, description: str) -> str | None:
        """Return ``value`` if it is text that can be used. Otherwise, add a problem at ``where`` and return None."""
        if not isinstance(value, str):
            self.problems.add(where, f"{description} is {describe_type(value)}, not text")
        elif not value.strip():
            self.problems.add(where, f"{description} is {'blank' if value else 'empty'}")
        elif "\0" in value:
            self.problems.add(where, f"{description} contains a NUL character")
        elif not _encodable(value):
            self.problems.add(
                where, f"{description} contains half of a surrogate pair (\\ud800 to \\udfff), which is not a character"
            )
        else:
            return value
        return None

    def _texts(self, value: Any, where: str, description: str, *, may_be_text: bool) -> list[str]:
        """Return the usable texts in ``value``, and add a problem at ``where`` for each item that is not a usable text.

        ``value`` must be a list or, only if ``may_be_text`` is set, a single text. Otherwise, add a problem.
        """
        if may_be_text and not isinstance(value, list):
            text = self.read_text(value, where, description)
            return [] if text is None else [text]
        if not isinstance(value, list):
            self.problems.add(where, f"{description} is {describe_type(value)}, not a list of texts")
            return []
        if may_be_text and not value:
            self.problems.add(where, f"{description} is an empty list")
        texts = [self.read_text(item, where, f"{description}[{i}]") for i, item in enumerate(value)]
        return [text for text in texts if text is not None]

    def _optional_texts(self, record: Mapping[str, Any], column: str | None, where: str) -> list[str]:
        if column is None or (value := record.get(column)) is None:
            return []
        return self._texts(value, where, f"column {column!r}", may_be_text=False)

    def _code(self, record: Mapping[str, Any], column: str | None, where: str) -> str:
        """Return the code in a column, which may be empty."""
        if column is None or (value := record.get(column)) is None or value == "":
            return ""
        return self.read_text(value, where, f"column {column!r}") or ""

    def _row_id(self, record: Mapping[str, Any], where: str, *, default: str) -> str:
        column = self.columns.id
        if column is None or (value := record.get(column)) is None:
            return default
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.problems.add(where, f"column {column!r} is {describe_type(value)}, not text or a whole number")
        return str(value)


def describe_type(value: Any) -> str:
    """Return the JSON type of ``value`` in words, such as "a list"."""
    kinds = (
        (bool, "a boolean"),
        (str, "text"),
        (int | float, "a number"),
        (list, "a list"),
        (Mapping, "an object"),
        (type(None), "null"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), f"of type {type(value).__name__}")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
