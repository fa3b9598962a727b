"""Decide when the next attempt starts, and account for the run time and the retry budgets of a job."""

import hashlib
import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta

from promptintern_api.compute import Retries
from promptintern_api.status import AttemptStatus, Outcome

from promptintern_operator.plan.types import Limits


def ray_job_name(job: str, number: int) -> str:
    """Return the name of an attempt's RayJob. KubeRay allows 47 characters; a job's name has at most 40."""
    return f"{job}-a{number}"


def budget_of(outcome: Outcome, retries: Retries) -> int | None:
    """Return how many attempts that end with ``outcome`` may be followed by another; None means any number."""
    match outcome:
        case Outcome.APPLICATION:
            return retries.application
        case Outcome.INFRASTRUCTURE:
            return retries.infrastructure
        case Outcome.PREEMPTION:
            return retries.preemption
        case Outcome.SUSPENDED:
            return None
        case Outcome.USER | Outcome.SUCCEEDED:
            return 0


def is_spent(attempts: Sequence[AttemptStatus], retries: Retries, *, saved_after: float) -> bool:
    """Return whether the newest attempt exceeds the retry budget of its outcome, so that no attempt may follow.

    Args:
        attempts: The attempts that count.
        retries: The budgets.
        saved_after: The seconds after which the trainer of an attempt has saved some of its work. A preemption counts
            only if it came earlier, and only together with such preemptions right before it.
    """
    outcome = attempts[-1].outcome
    assert outcome is not None
    allowed = budget_of(outcome, retries)
    if allowed is None:
        return False
    if outcome is not Outcome.PREEMPTION:
        return sum(attempt.outcome is outcome for attempt in attempts) > allowed
    fruitless = itertools.takewhile(lambda attempt: _is_fruitless(attempt, saved_after), reversed(attempts))
    return sum(1 for _ in fruitless) > allowed


def _is_fruitless(attempt: AttemptStatus, saved_after: float) -> bool:
    """Return whether ``attempt`` was preempted before it saved. An older operator did not record how long it ran."""
    seconds = attempt.trained_seconds
    return attempt.outcome is Outcome.PREEMPTION and seconds is not None and seconds < saved_after


def backoff(first: float, failures: int, maximum: float) -> float:
    """Return the exponential backoff in seconds after ``failures`` failures, at most ``maximum``."""
    return min(first * float(2 ** min(failures - 1, 30)), maximum)


def next_start(attempts: Sequence[AttemptStatus], *, limits: Limits, seed: str) -> datetime | None:
    """Return when the next attempt may start, or None if it may start at once.

    The delay grows exponentially with the number of consecutive failures, plus up to 25 % of jitter. The jitter depends
    only on ``seed`` and the attempt, so that jobs that failed together do not restart together.
    """
    if not attempts:
        return None
    newest = attempts[-1]
    failures = _streak(attempts, Outcome.APPLICATION, Outcome.INFRASTRUCTURE)
    preemptions = _streak(attempts, Outcome.PREEMPTION)
    if failures + preemptions == 0 or newest.finished_at is None:
        return None
    delay = (
        backoff(limits.retry, failures, limits.retry_max)
        if failures
        else backoff(limits.free_retry, preemptions, limits.free_retry_max)
    )
    digest = hashlib.sha256(f"{seed}/{newest.number}".encode()).digest()
    return newest.finished_at + timedelta(seconds=delay * (1 + digest[0] / 1020))


def _streak(attempts: Sequence[AttemptStatus], *outcomes: Outcome) -> int:
    """Return the number of consecutive newest attempts that ended with one of ``outcomes``."""
    return sum(1 for _ in itertools.takewhile(lambda attempt: attempt.outcome in outcomes, reversed(attempts)))


def fold(attempts: Sequence[AttemptStatus], limit: int, *, retried_after: int = 0) -> list[AttemptStatus]:
    """Return ``attempts`` shortened to ``limit`` entries by dropping the oldest attempts that no budget counts.

    No budget counts a suspension, a preemption that is older than the largest budget, or an attempt up to number
    ``retried_after``. The result is longer than ``limit`` if too few attempts can be dropped. The run time of a dropped
    attempt is added to the next one, since the deadline of the job includes it.
    """
    kept = list(attempts)
    while len(kept) > limit:
        uncounted = (Outcome.PREEMPTION, Outcome.SUSPENDED)
        index = next((i for i, a in enumerate(kept[:-1]) if a.outcome in uncounted or a.number <= retried_after), None)
        if index is None:
            break
        ran, following = kept[index].active_seconds or 0.0, kept[index + 1]
        kept[index + 1] = following.model_copy(update={"active_seconds": (following.active_seconds or 0.0) + ran})
        del kept[index]
    return kept


def active_seconds(attempts: Sequence[AttemptStatus], now: datetime) -> float:
    """Return the run time of the job in seconds, without the time in which it was queued or suspended."""
    return sum(_active(attempt, now) for attempt in attempts)


def _active(attempt: AttemptStatus, now: datetime) -> float:
    running = (now - attempt.active_since).total_seconds() if attempt.active_since else 0.0
    return (attempt.active_seconds or 0.0) + max(running, 0.0)


def pause_fields(attempt: AttemptStatus, now: datetime) -> dict[str, object]:
    """Return the changed fields of an attempt that has stopped running, for now or for good."""
    return {"active_seconds": round(_active(attempt, now), 3), "active_since": None}
