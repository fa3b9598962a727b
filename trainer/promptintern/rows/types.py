"""The types of the rows of data: a query, and a row, which also has answers."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A query, which may have no answer."""

    query: str
    id: str
    where: str
    """The place of the query for messages: ``file:line``, or ``file#row`` for Parquet."""
    is_written: bool = False
    """Whether the base model wrote the query, so that it is in no file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row(Query):
    """A row of data: a query, the answer that is learned, and all answers that evaluation accepts."""

    answer: str
    answers: tuple[str, ...]
    """All accepted answers, with ``answer`` first."""
    tests: tuple[str, ...] = ()
    """Statements that check the program in an answer."""
    test_setup: str = ""
    """Code that runs before the tests."""
