"""Actions that the API server does not let the operator carry out: how that is told, and when it is tried again."""

from datetime import datetime, timedelta

from promptintern_operator.plan.attempts import doubling
from promptintern_operator.plan.draft import Draft
from promptintern_operator.plan.types import (
    Action,
    DeleteJob,
    DeletePreflight,
    DeleteRayJob,
    Denied,
    Limits,
    Observed,
    StartAttempt,
)

TAKEN, EARLIER = "NameTaken", "EarlierJobDeleting"
"""Something else has the name: of somebody else, or of an earlier job of the same name."""
INVALID = "Invalid"
"""The object's own rules are broken, and it is made from a spec that stays as it is."""
_FAILED, _NOT_DELETED = "CreateFailed", "DeleteFailed"
_SAID = (("exceeded quota", "QuotaExceeded"), ("because it is being terminated", "NamespaceTerminating"))
"""What the API server says, the same in all its versions, and what it means."""
DENIALS = (TAKEN, EARLIER, _FAILED, *(reason for _, reason in _SAID))
"""Every reason why something cannot be made."""
_ASKED_AGAIN = "the API server refuses it, and is asked again"
_LONGEST = 2000
_INTERRUPTION = timedelta(minutes=5)
"""After so long without a try, one that is denied is the first of a new row."""
_DELETIONS = (DeleteRayJob, DeletePreflight, DeleteJob)


def denied(
    action: Action, before: Denied | None, *, status: int, reason: str, said: str, now: datetime
) -> Denied | None:
    """What a refusal of ``action`` means; None if it only says that now is a bad moment.

    Args:
        before: The denial before, of this action or another.
        status: HTTP's.
        reason: The API server's word, or ``TAKEN`` or ``EARLIER``.
        said: Its sentence.
    """
    taken = reason in (TAKEN, EARLIER)
    # A webhook that fails is answered with 500, and so is a storage of the API server that changes its leader.
    passing = status in (401, 408, 409, 429) or status < 400 or status > 500
    hiccup = status == 500 and not any(word in said for word in ("webhook", "admission"))
    if (passing or hiccup) and not taken:
        return None
    deleting = isinstance(action, _DELETIONS)
    found = _NOT_DELETED if deleting else reason_of(said, otherwise=_FAILED)
    if status == 422 and not deleting and "denied request" not in said:  # else it is a policy's word, which may change
        found = INVALID
    if status == 404 and isinstance(action, StartAttempt):
        said += "; is KubeRay installed, and is the namespace still there?"
    if "authOptions" in said and isinstance(action, StartAttempt):
        said += "; this KubeRay cannot guard a Ray cluster with a token, 1.5 or newer is needed, its CRDs too"
    again = before is not None and before.action == action and now - before.at < _INTERRUPTION
    return Denied(
        action=action,
        reason=reason if taken else found,
        message=said[:_LONGEST] if taken or found == INVALID else f"{_ASKED_AGAIN}: {said[:_LONGEST]}",
        since=before.since if before is not None and again else now,
        at=now,
        times=before.times + 1 if before is not None and again else 1,
    )


def reason_of(said: str, *, otherwise: str) -> str:
    """What an answer of the API server means that ``said`` holds."""
    return next((word for text, word in _SAID if text in said), otherwise)


def denial_of(action: Action, observed: Observed) -> Denied | None:
    """How ``action`` was denied, None if it was not."""
    found = observed.denied
    return found if found is not None and found.action == action else None


def gives_up(found: Denied, limits: Limits) -> bool:
    """Whether it was denied again and again for as long as a pod may be stuck. A name that is taken is waited for."""
    return found.reason not in (TAKEN, EARLIER) and found.at - found.since >= timedelta(seconds=limits.stuck)


def hold(observed: Observed, draft: Draft, limits: Limits) -> None:
    """Leave an action that was denied, and those that follow it, for later."""
    found = observed.denied
    if found is None or found.action not in draft.actions:
        return
    if isinstance(found.action, DeleteRayJob) or (
        isinstance(found.action, _DELETIONS) and draft.completion_time is not None
    ):
        draft.set("ClusterReady", False, found.reason, found.message)
    pause = timedelta(seconds=doubling(limits.again, found.times, limits.again_max))
    if not draft.has_come(found.at + pause):
        draft.hold(found.action)
