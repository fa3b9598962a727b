"""Finds duplicate rows, and leaks between training rows and held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from promptintern_api.data import OnProblem

from promptintern.errors import Problem
from promptintern.rows.duplicates import normalise_query
from promptintern.rows.problems import ProblemList
from promptintern.rows.types import Row

_MAX_EXAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class CheckedRows:
    """The result of ``check_rows``. The rows in ``train`` can be used if there are no problems."""

    train: list[Row]
    problems: list[Problem]
    warnings: list[str]
    dropped_leaks: int
    """The number of training rows that were dropped because a held-out row has the same query."""


def check_rows(train: Sequence[Row], eval_rows: Sequence[Row], *, on_leak: OnProblem) -> CheckedRows:
    """Find leaks and duplicates by comparing normalised queries.

    A training row with the query of a held-out row is a leak. ``on_leak`` says whether a leak is a problem or is
    dropped from the training rows.
    """
    held_out: dict[str, Row] = {}
    for row in eval_rows:
        held_out.setdefault(normalise_query(row.query), row)
    keys = [normalise_query(row.query) for row in train]
    clean = [(key, row) for key, row in zip(keys, train, strict=True) if key not in held_out]
    leaks = len(train) - len(clean)
    problems = ProblemList()
    if on_leak is OnProblem.ERROR:
        for key, row in zip(keys, train, strict=True):
            if key in held_out:
                problems.add(held_out[key].where, _leak_message(held_out[key], row))
        kept = list(zip(keys, train, strict=True))
    else:
        kept = clean
        if leaks and not clean:
            problems.add("spec.data.train", "has no rows left, because every query is also in spec.data.eval")
    return CheckedRows(
        train=[row for _, row in kept],
        problems=problems.summary(),
        warnings=[*_duplicate_warnings(kept), *_repeated_held_out(eval_rows)],
        dropped_leaks=leaks if on_leak is OnProblem.DROP else 0,
    )


def _leak_message(held_out: Row, row: Row) -> str:
    return (
        f"has the same query as training row {row.where} ({_short(held_out.query)}), so its score would be "
        "meaningless; remove one of them, or set spec.data.onLeak: Drop to leave the training row out"
    )


def _duplicate_warnings(keyed: Sequence[tuple[str, Row]]) -> list[str]:
    first: dict[str, Row] = {}
    same: list[tuple[Row, Row]] = []
    different: list[tuple[Row, Row]] = []
    for key, row in keyed:
        earlier = first.setdefault(key, row)
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


def _repeated_held_out(rows: Sequence[Row]) -> list[str]:
    distinct = len({normalise_query(row.query) for row in rows})
    if distinct == len(rows):
        return []
    return [
        f"{len(rows)} held-out rows have only {distinct} distinct queries; the intervals count every row, so they are "
        "narrower than the data supports"
    ]


def _count(pairs: Sequence[tuple[Row, Row]]) -> str:
    return "1 training row repeats" if len(pairs) == 1 else f"{len(pairs)} training rows repeat"


def _examples(pairs: Sequence[tuple[Row, Row]]) -> str:
    shown = "; ".join(f"{b.where} and {a.where} ({_short(b.query)})" for a, b in pairs[:_MAX_EXAMPLES])
    return shown + (f"; and {len(pairs) - _MAX_EXAMPLES} more" if len(pairs) > _MAX_EXAMPLES else "")


def _short(text: str, limit: int = 60) -> str:
    shown = repr(text)
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"
