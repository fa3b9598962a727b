"""The type of a row: a query and its accepted answers."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of data: a query, the answer that is learned, and all answers that evaluation accepts."""

    query: str
    answer: str
    answers: tuple[str, ...]
    """All accepted answers, with ``answer`` first."""
    id: str
    where: str
    """The place of the row for messages: ``file:line``, or ``file#row`` for Parquet."""
    tests: tuple[str, ...] = ()
