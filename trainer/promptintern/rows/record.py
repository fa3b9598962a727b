"""One record of a file (a mapping of columns) becomes a row, or problems at its line."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from promptintern_api.data import Columns

from promptintern.rows.problems import ProblemList
from promptintern.rows.types import Row


@dataclass(frozen=True, kw_only=True)
class RecordReader:
    """Reads records by a column mapping and notes what is wrong with them."""

    columns: Columns
    field: str
    """The source's field in the job, such as ``spec.data.train``."""
    problems: ProblemList
    seen: set[str] = dataclasses.field(default_factory=set)
    """Optional columns that stood in some record."""

    def unseen(self) -> list[str]:
        """A warning for each optional column that the job names and no record has: it may be mistyped."""
        named: dict[str, str | None] = {name: getattr(self.columns, name) for name in ("answers", "tests", "id")}
        return [
            f"{self.field}.columns.{name}: no row has a column {column!r}"
            for name, column in named.items()
            if column is not None and column not in self.seen
        ]

    def read(self, record: Mapping[str, Any], *, where: str, number: int) -> Row | None:
        """The row in ``record``; None if it has a problem, which is noted at ``where``."""
        before = self.problems.count
        missing = [n for n in ("query", "answer") if getattr(self.columns, n) not in record]
        for name in missing:
            self.problems.add(where, self._missing(name, record))
        if missing:
            return None
        query = self.text(record[self.columns.query], where, f"column {self.columns.query!r}")
        accepted = self._texts(record[self.columns.answer], where, f"column {self.columns.answer!r}", may_be_text=True)
        return self.finish(record, query=query, accepted=accepted, where=where, number=number, before=before)

    def finish(
        self,
        record: Mapping[str, Any],
        *,
        query: str | None,
        accepted: Sequence[str],
        where: str,
        number: int,
        before: int,
    ) -> Row | None:
        """The row with its optional columns, unless a problem was noted since there were ``before`` of them."""
        names = self.columns
        self.seen.update(name for name in (names.answers, names.tests, names.id) if name and name in record)
        further = self._optional_texts(record, names.answers, where)
        tests = self._optional_texts(record, names.tests, where)
        name = self._name(record, where, default=str(number))
        if self.problems.count > before or query is None:
            return None
        return Row(
            query=query,
            answer=accepted[0],
            answers=tuple(dict.fromkeys([*accepted, *further])),
            id=name,
            where=where,
            tests=tuple(tests),
        )

    def _missing(self, name: str, record: Mapping[str, Any]) -> str:
        column = getattr(self.columns, name)
        there = [str(key) for key in record]
        close = get_close_matches(column, there, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        listed = ", ".join(map(repr, there[:10])) + (", ..." if len(there) > 10 else "") if there else "none"
        return f"has no column {column!r}; {hint}Columns: {listed}. Set {self.field}.columns.{name} to the right one"

    def text(self, value: Any, where: str, what: str) -> str | None:
        """``value`` if it is text that can be used."""
        if not isinstance(value, str):
            self.problems.add(where, f"{what} is {kind_of(value)}, not text")
        elif not value.strip():
            self.problems.add(where, f"{what} is {'blank' if value else 'empty'}")
        elif "\0" in value:
            self.problems.add(where, f"{what} holds a NUL character")
        elif not _encodable(value):
            self.problems.add(
                where, f"{what} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
            )
        else:
            return value
        return None

    def _texts(self, value: Any, where: str, what: str, *, may_be_text: bool) -> list[str]:
        """A list of usable texts; a single text counts as one where it may."""
        if may_be_text and not isinstance(value, list):
            text = self.text(value, where, what)
            return [] if text is None else [text]
        if not isinstance(value, list):
            self.problems.add(where, f"{what} is {kind_of(value)}, not a list of texts")
            return []
        if may_be_text and not value:
            self.problems.add(where, f"{what} is an empty list")
        texts = [self.text(item, where, f"{what}[{i}]") for i, item in enumerate(value)]
        return [text for text in texts if text is not None]

    def _optional_texts(self, record: Mapping[str, Any], column: str | None, where: str) -> list[str]:
        if column is None or (value := record.get(column)) is None:
            return []
        return self._texts(value, where, f"column {column!r}", may_be_text=False)

    def _name(self, record: Mapping[str, Any], where: str, *, default: str) -> str:
        column = self.columns.id
        if column is None or (value := record.get(column)) is None:
            return default
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.problems.add(where, f"column {column!r} is {kind_of(value)}, not text or a number")
        return str(value)


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    kinds = (
        (bool, "true or false"),
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
