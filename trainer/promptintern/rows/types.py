"""One row of data as everything after loading sees it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A query, the answer that is taught, and what evaluation accepts."""

    query: str
    answer: str
    answers: tuple[str, ...]
    """Every accepted answer, the taught one first."""
    id: str
    where: str
    """``file:line`` (``file#row`` for Parquet), for messages."""
    tests: tuple[str, ...] = ()
