"""Finds duplicate rows, and leaks between training rows and held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from promptintern_api.data import OnProblem

from promptintern.errors import Problem
from promptintern.rows.duplicates import normalise_query
from promptintern.rows.problems import ProblemList
from promptintern.rows.types import Query, Row

_MAX_EXAMPLES = 2
Q = TypeVar("Q", bound=Query)


@dataclass(frozen=True, kw_only=True)
class CheckedRows:
    """The result of ``check_rows``. The rows in ``train`` can be used if there are no problems."""

    train: list[Row]
    problems: list[Problem]
    warnings: list[str]
    dropped_leaks: int
    """The number of training rows that were dropped because a held-out row has the same query."""


@dataclass(frozen=True, kw_only=True)
class CheckedQueries:
    """The result of ``check_queries``. The queries can be used if there are no problems."""

    queries: list[Query]
    problems: list[Problem]
    dropped_leaks: int
    """The number of queries that were dropped because a held-out row has the same query."""
    dropped_repeats: int
    """The number of queries that were dropped because an earlier one, or a training row, has the same query."""


def check_rows(train: Sequence[Row], eval_rows: Sequence[Query], *, on_leak: OnProblem) -> CheckedRows:
    """Find leaks and duplicates by comparing normalised queries.

    A training row with the query of a held-out row is a leak. ``on_leak`` says whether a leak is a problem or is
    dropped from the training rows.
    """
    leaks = _find_leaks(train, eval_rows, on_leak=on_leak, field="spec.data.train", name="training row")
    return CheckedRows(
        train=leaks.kept,
        problems=leaks.problems,
        warnings=[*_duplicate_warnings(leaks.kept), *_repeated_held_out(eval_rows)],
        dropped_leaks=leaks.dropped,
    )


def check_queries(
    queries: Sequence[Query], train: Sequence[Row], eval_rows: Sequence[Query], *, on_leak: OnProblem
) -> CheckedQueries:
    """Find leaks among ``queries`` as ``check_rows`` does, and drop queries that occur before or in ``train``."""
    leaks = _find_leaks(queries, eval_rows, on_leak=on_leak, field="spec.data.queries", name="query")
    seen = {normalise_query(row.query) for row in train}
    kept = []
    for query in leaks.kept:
        key = normalise_query(query.query)
        if key not in seen:
            seen.add(key)
            kept.append(query)
    problems = list(leaks.problems)
    if queries and not kept and not problems:
        problems.append(
            Problem(
                where="spec.data.queries",
                message="has no rows left, because every query is also in spec.data.train or spec.data.eval",
            )
        )
    return CheckedQueries(
        queries=kept,
        problems=problems,
        dropped_leaks=leaks.dropped,
        dropped_repeats=len(leaks.kept) - len(kept),
    )


@dataclass(frozen=True, kw_only=True)
class _Leaks(Generic[Q]):
    kept: list[Q]
    problems: list[Problem]
    dropped: int


def _find_leaks(
    rows: Sequence[Q], eval_rows: Sequence[Query], *, on_leak: OnProblem, field: str, name: str
) -> _Leaks[Q]:
    """Find the rows whose query is also the query of a held-out row; drop them, or report them as problems.

    Args:
        field: The field of the job that names the file of ``rows``.
        name: What messages call one of the rows.
    """
    held_out: dict[str, Query] = {}
    for row in eval_rows:
        held_out.setdefault(normalise_query(row.query), row)
    keys = [normalise_query(row.query) for row in rows]
    clean = [row for key, row in zip(keys, rows, strict=True) if key not in held_out]
    problems = ProblemList()
    if on_leak is OnProblem.ERROR:
        for key, leaked in zip(keys, rows, strict=True):
            if key in held_out:
                problems.add(held_out[key].where, _leak_message(held_out[key], leaked, name))
        return _Leaks(kept=list(rows), problems=problems.summary(), dropped=0)
    if len(clean) < len(rows) and not clean:
        problems.add(field, "has no rows left, because every query is also in spec.data.eval")
    return _Leaks(kept=clean, problems=problems.summary(), dropped=len(rows) - len(clean))


def _leak_message(held_out: Query, row: Query, name: str) -> str:
    return (
        f"has the same query as {name} {row.where}, so its score would be "
        f"meaningless; remove one of them, or set spec.data.onLeak: Drop to leave the {name} out"
    )


def _duplicate_warnings(rows: Sequence[Row]) -> list[str]:
    first: dict[str, Row] = {}
    same: list[tuple[Row, Row]] = []
    different: list[tuple[Row, Row]] = []
    for row in rows:
        earlier = first.setdefault(normalise_query(row.query), row)
        if earlier is not row:
            (same if earlier.answer.strip() == row.answer.strip() else different).append((earlier, row))
    warnings = []
    if same:
        warnings.append(f"{_count(same)} an earlier row's query and answer: {_examples(same)}")
    if different:
        warnings.append(
            f"{_count(different)} an earlier row's query with a different answer, so the rows contradict each other: "
            f"{_examples(different)}"
        )
    return warnings


def _repeated_held_out(rows: Sequence[Query]) -> list[str]:
    distinct = len({normalise_query(row.query) for row in rows})
    if distinct == len(rows):
        return []
    return [
        f"{len(rows)} held-out rows have only {distinct} distinct queries; rows with the same query count as one "
        "cluster, so the report's intervals are wider than those of as many different rows"
    ]


def _count(pairs: Sequence[tuple[Row, Row]]) -> str:
    return "1 training row repeats" if len(pairs) == 1 else f"{len(pairs)} training rows repeat"


def _examples(pairs: Sequence[tuple[Row, Row]]) -> str:
    shown = "; ".join(f"{b.where} and {a.where} ({_short(b.query)})" for a, b in pairs[:_MAX_EXAMPLES])
    return shown + (f"; and {len(pairs) - _MAX_EXAMPLES} more" if len(pairs) > _MAX_EXAMPLES else "")


def _short(text: str, limit: int = 60) -> str:
    shown = repr(text)
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"
