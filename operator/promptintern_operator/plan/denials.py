"""Report the actions that the API server denies, and decide when the operator retries them."""

from datetime import datetime, timedelta

from promptintern_operator.plan.attempts import backoff
from promptintern_operator.plan.draft import StatusDraft
from promptintern_operator.plan.types import (
    Action,
    DeleteJob,
    DeletePreflight,
    DeleteRayJob,
    Denial,
    Limits,
    Observed,
    StartAttempt,
)

NAME_TAKEN, EARLIER_JOB = "NameTaken", "EarlierJobDeleting"
"""The reasons of a denial if the name of an object is taken by an unrelated object, or by an object of an earlier job
of the same name.
"""
INVALID = "Invalid"
"""The reason of a denial if an object violates its schema. A retry would fail too, because the spec stays the same."""
NOT_DELETED = "DeleteFailed"
"""The reason of a denial if an object cannot be deleted."""
_FAILED = "CreateFailed"
_KNOWN_TEXTS = (("exceeded quota", "QuotaExceeded"), ("because it is being terminated", "NamespaceTerminating"))
"""The texts that identify an error in every version of the API server, each with the reason of the denial."""
DENIALS = (NAME_TAKEN, EARLIER_JOB, _FAILED, *(reason for _, reason in _KNOWN_TEXTS))
"""All reasons for which an object cannot be created yet, so that its creation is retried."""
_RETRIED = "the API server denied the request, which will be retried"
_LONGEST = 2000
_INTERRUPTION = timedelta(minutes=5)
"""The time without a denial after which the count of consecutive denials starts again."""
_DELETIONS = (DeleteRayJob, DeletePreflight, DeleteJob)


def denial_for(
    action: Action, previous: Denial | None, *, status: int, reason: str, message: str, now: datetime
) -> Denial | None:
    """Return the denial of ``action``, or None if the error is transient and the workqueue has to retry the job.

    Args:
        action: The action that failed.
        previous: The previous denial, of this action or of another one.
        status: The HTTP status of the response.
        reason: The reason that the API server gave, or ``NAME_TAKEN`` or ``EARLIER_JOB``.
        message: The message that the API server gave.
        now: The current time.
    """
    name_taken = reason in (NAME_TAKEN, EARLIER_JOB)
    # The API server answers 500 both for a failing webhook and while its etcd elects a leader.
    transient = status in (401, 408, 409, 429) or status < 400 or status > 500
    hiccup = status == 500 and not any(word in message for word in ("webhook", "admission"))
    if (transient or hiccup) and not name_taken:
        return None
    deleting = isinstance(action, _DELETIONS)
    kind = NOT_DELETED if deleting else denial_reason(message, default=_FAILED)
    # A policy that denied the request may change; the schema of the object does not.
    if status == 422 and not deleting and "denied request" not in message:
        kind = INVALID
    if status == 404 and isinstance(action, StartAttempt):
        message += "; check that KubeRay is installed and that the namespace still exists"
    if "authOptions" in message and isinstance(action, StartAttempt):
        message += (
            "; the installed KubeRay cannot protect a Ray cluster with a token: upgrade it and its CRDs to 1.5 or newer"
        )
    in_a_row = previous is not None and previous.action == action and now - previous.at < _INTERRUPTION
    return Denial(
        action=action,
        reason=reason if name_taken else kind,
        message=message[:_LONGEST] if name_taken or kind == INVALID else f"{_RETRIED}: {message[:_LONGEST]}",
        since=previous.since if previous is not None and in_a_row else now,
        at=now,
        times=previous.times + 1 if previous is not None and in_a_row else 1,
    )


def denial_reason(message: str, *, default: str) -> str:
    """Return the reason that a known text in ``message`` identifies, or ``default`` if there is no known text."""
    return next((word for text, word in _KNOWN_TEXTS if text in message), default)


def denial_of(action: Action, observed: Observed) -> Denial | None:
    """Return the denial of ``action``, or None if it was not denied."""
    denial = observed.denial
    return denial if denial is not None and denial.action == action else None


def should_give_up(denial: Denial, limits: Limits) -> bool:
    """Return whether the denial has lasted for ``limits.stuck`` seconds. The wait for a taken name has no limit."""
    return denial.reason not in (NAME_TAKEN, EARLIER_JOB) and denial.at - denial.since >= timedelta(
        seconds=limits.stuck
    )


def postpone_denied(observed: Observed, draft: StatusDraft, limits: Limits) -> None:
    """Postpone a denied action, and the actions that follow it, until the backoff is over."""
    denial = observed.denial
    if denial is None or denial.action not in draft.actions:
        return
    if isinstance(denial.action, DeleteRayJob) or (
        isinstance(denial.action, _DELETIONS) and draft.completion_time is not None
    ):
        draft.set_condition("ClusterReady", False, denial.reason, denial.message)
    pause = timedelta(seconds=backoff(limits.free_retry, denial.times, limits.free_retry_max))
    if not draft.is_due(denial.at + pause):
        draft.postpone(denial.action)
