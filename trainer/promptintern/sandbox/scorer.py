"""Lets a user's own scorer give numbers to answers, in processes that can use only little of the machine.

A process scores many rows, because a scorer may take long to load. If it fails on a row or takes too long, it is ended,
and a new one goes on with the next row. `scorer_process.py` holds one such process.
"""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from promptintern_api.metrics import Scorer

from promptintern.errors import UserError
from promptintern.sandbox.process import Isolation
from promptintern.sandbox.scorer_process import NotLoaded, ScoredRow, ScorerFault, ScorerProcess

FIELD = "spec.evaluation.scorer"
_MAX_FAILED_STARTS = 3
"""The number of times in a row that a scorer may fail to load before it is given up."""


@dataclass(kw_only=True)
class Scored:
    """The numbers of rows."""

    numbers: list[float | None]
    """The number of each row, or None for a row on which the scorer failed."""
    faults: Counter[str] = field(default_factory=Counter)
    """The numbers of rows without a number, by what went wrong."""


def score_rows(rows: Sequence[ScoredRow], settings: Scorer, isolation: Isolation) -> Scored:
    """Return the number of each row. One process runs on each core."""
    workers = min(len(os.sched_getaffinity(0)), max(1, len(rows)))

    def score(first: int) -> Scored:
        found, failed_starts = Scored(numbers=[]), 0
        with ScorerProcess(settings, isolation) as process:
            for row in rows[first::workers]:
                number: float | None = None
                try:
                    if failed_starts >= _MAX_FAILED_STARTS:
                        raise ScorerFault("it could not be loaded any more")
                    number, failed_starts = process.score(row), 0
                except NotLoaded as fault:
                    failed_starts += 1
                    found.faults[str(fault)] += 1
                except ScorerFault as fault:
                    found.faults[str(fault)] += 1
                found.numbers.append(number)
        return found

    scored = Scored(numbers=[None] * len(rows))
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="scorer") as threads:
        for first, part in enumerate(threads.map(score, range(workers))):
            scored.numbers[first::workers] = part.numbers
            scored.faults += part.faults
    return scored


def check_scorer(row: ScoredRow | None, settings: Scorer, isolation: Isolation) -> None:
    """Check that the scorer can be loaded, and that it gives a number to ``row``, whose prediction is accepted.

    Args:
        row: The row, or None if no accepted answer is known yet. Then only an entry point is loaded.
        settings: The job's scorer.
        isolation: What this machine offers to hold programs.

    Raises:
        UserError: if it does not.
    """
    with ScorerProcess(settings, isolation) as process:
        try:
            if row is not None:
                process.score(row)
            elif settings.entry_point is not None:
                process.start()
        except NotLoaded as fault:
            raise UserError.at(FIELD, f"cannot be loaded: {fault}") from None
        except ScorerFault as fault:
            raise UserError.at(
                FIELD,
                f"gave no number to the first held-out row with its own accepted answer as the prediction: {fault}",
            ) from None
