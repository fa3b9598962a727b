"""A row of data, as loading returns it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A query, the answer to learn, and the answers that evaluation accepts."""

    query: str
    answer: str
    answers: tuple[str, ...]
    """All accepted answers, with ``answer`` first."""
    id: str
    where: str
    """``file:line`` (``file#row`` for Parquet), for messages."""
    tests: tuple[str, ...] = ()
