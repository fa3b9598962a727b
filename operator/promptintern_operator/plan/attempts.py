"""Attempts: when the next one starts, how long they ran, and what budget is left."""

import hashlib
import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta

from promptintern_api.compute import Retries
from promptintern_api.status import AttemptStatus, Outcome

from promptintern_operator.plan.types import Limits


def ray_job_name(job: str, number: int) -> str:
    """The RayJob of an attempt. KubeRay allows 47 characters, a job's name has at most 40."""
    return f"{job}-a{number}"


def budget_of(outcome: Outcome, retries: Retries) -> int | None:
    """How many attempts may end with ``outcome``, each followed by another; None means any number."""
    match outcome:
        case Outcome.APPLICATION:
            return retries.application
        case Outcome.INFRASTRUCTURE:
            return retries.infrastructure
        case Outcome.PREEMPTION | Outcome.SUSPENDED:
            return None
        case Outcome.USER | Outcome.SUCCEEDED:
            return 0


def is_spent(attempts: Sequence[AttemptStatus], retries: Retries) -> bool:
    """Whether the newest attempt's end leaves no other attempt."""
    outcome = attempts[-1].outcome
    assert outcome is not None
    allowed = budget_of(outcome, retries)
    return allowed is not None and sum(attempt.outcome is outcome for attempt in attempts) > allowed


def backoff(first: float, times: int, most: float) -> float:
    """Seconds to wait after the ``times``-th time."""
    return min(first * float(2 ** min(times - 1, 30)), most)


def next_start(attempts: Sequence[AttemptStatus], *, limits: Limits, seed: str) -> datetime | None:
    """When the attempt after the newest may start; None means at once.

    Exponential in the number of failures in a row, with up to 25 % of jitter that depends on ``seed`` and the attempt
    alone, so that jobs that failed together do not come back together. Preemptions are free, so that only their short
    pauses keep a job from being taken again and again as fast as it can start.
    """
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
    """How many of the newest attempts ended so."""
    return sum(1 for _ in itertools.takewhile(lambda attempt: attempt.outcome in outcomes, reversed(attempts)))


def fold(attempts: Sequence[AttemptStatus], limit: int) -> list[AttemptStatus]:
    """At most ``limit`` of ``attempts``, if so many are free: the oldest that no budget counts go first.

    The time that they ran is added to their successor's, since deadlines count it.
    """
    kept = list(attempts)
    while len(kept) > limit:
        index = next((i for i, a in enumerate(kept[:-1]) if a.outcome in (Outcome.PREEMPTION, Outcome.SUSPENDED)), None)
        if index is None:
            break
        ran, following = kept[index].active_seconds or 0.0, kept[index + 1]
        kept[index + 1] = following.model_copy(update={"active_seconds": (following.active_seconds or 0.0) + ran})
        del kept[index]
    return kept


def active_seconds(attempts: Sequence[AttemptStatus], now: datetime) -> float:
    """How long the job ran, without queued and suspended time."""
    return sum(_active(attempt, now) for attempt in attempts)


def _active(attempt: AttemptStatus, now: datetime) -> float:
    running = (now - attempt.active_since).total_seconds() if attempt.active_since else 0.0
    return (attempt.active_seconds or 0.0) + max(running, 0.0)


def pause_fields(attempt: AttemptStatus, now: datetime) -> dict[str, object]:
    """Changes for an attempt that does not run any more, or not for now."""
    return {"active_seconds": round(_active(attempt, now), 3), "active_since": None}
