"""Actions that the API server does not let the operator carry out: how that is told, and when it is tried again."""

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
"""Something else has the name: of somebody else, or of an earlier job of the same name."""
INVALID = "Invalid"
"""The object's own rules are broken, and it is made from a spec that stays as it is."""
_FAILED, _NOT_DELETED = "CreateFailed", "DeleteFailed"
_KNOWN_TEXTS = (("exceeded quota", "QuotaExceeded"), ("because it is being terminated", "NamespaceTerminating"))
"""What the API server says, the same in all its versions, and what it means."""
DENIALS = (NAME_TAKEN, EARLIER_JOB, _FAILED, *(reason for _, reason in _KNOWN_TEXTS))
"""Every reason why something cannot be made."""
_RETRIED = "the API server denied the request, which will be retried"
_LONGEST = 2000
_INTERRUPTION = timedelta(minutes=5)
"""After so long without a try, one that is denied is the first of a new row."""
_DELETIONS = (DeleteRayJob, DeletePreflight, DeleteJob)


def denial_for(
    action: Action, previous: Denial | None, *, status: int, reason: str, message: str, now: datetime
) -> Denial | None:
    """What a refusal of ``action`` means; None if it only says that now is a bad moment.

    Args:
        previous: The denial before, of this action or another.
        status: HTTP's.
        reason: The API server's word, or ``NAME_TAKEN`` or ``EARLIER_JOB``.
        message: Its sentence.
    """
    name_taken = reason in (NAME_TAKEN, EARLIER_JOB)
    # A webhook that fails is answered with 500, and so is a storage of the API server that changes its leader.
    transient = status in (401, 408, 409, 429) or status < 400 or status > 500
    hiccup = status == 500 and not any(word in message for word in ("webhook", "admission"))
    if (transient or hiccup) and not name_taken:
        return None
    deleting = isinstance(action, _DELETIONS)
    kind = _NOT_DELETED if deleting else denial_reason(message, default=_FAILED)
    if (
        status == 422 and not deleting and "denied request" not in message
    ):  # else it is a policy's word, which may change
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
    """What an answer of the API server means that ``message`` holds."""
    return next((word for text, word in _KNOWN_TEXTS if text in message), default)


def denial_of(action: Action, observed: Observed) -> Denial | None:
    """How ``action`` was denied, None if it was not."""
    denial = observed.denial
    return denial if denial is not None and denial.action == action else None


def should_give_up(denial: Denial, limits: Limits) -> bool:
    """Whether it was denied again and again for as long as a pod may be stuck. A taken name is waited for."""
    return denial.reason not in (NAME_TAKEN, EARLIER_JOB) and denial.at - denial.since >= timedelta(
        seconds=limits.stuck
    )


def postpone_denied(observed: Observed, draft: StatusDraft, limits: Limits) -> None:
    """Leave an action that was denied, and those that follow it, for later."""
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
