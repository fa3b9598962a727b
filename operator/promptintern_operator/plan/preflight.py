"""Whether the job may start: the preflight Job runs `promptintern validate` with the job's own credentials."""

import json
from datetime import datetime, timedelta

from promptintern_api import PromptInternJob

from promptintern_operator.plan.attempts import doubling
from promptintern_operator.plan.classify import (
    INFRASTRUCTURE_EXIT,
    NODE_TROUBLE,
    STUCK_BY_USER,
    USER_EXIT,
    stuck_pod,
)
from promptintern_operator.plan.denied import DENIALS, INVALID, denial_of, gives_up
from promptintern_operator.plan.draft import Draft
from promptintern_operator.plan.endings import finish
from promptintern_operator.plan.types import DeletePreflight, Limits, Observed, StartPreflight
from promptintern_operator.views import ContainerView, PodView, PreflightView

_KILLED = (137, 143)
"""Exit codes of what ends by SIGKILL or SIGTERM."""
_NO_POD = "CheckHasNoPod"
_CHECKING = "data, model, prompts and credentials are being checked"


def check_preflight(job: PromptInternJob, observed: Observed, draft: Draft, limits: Limits) -> bool:
    """Get condition Accepted. True while the job must not go on."""
    if draft.start_time is not None:
        return False
    if job.spec.suspend:
        draft.set("Suspended", True, "Suspended", "spec.suspend is true; set it to false to begin")
        return True
    if "Suspended" in draft.conditions:
        draft.set("Suspended", False, "Resumed", "spec.suspend is false")
    of_spec = [each for each in observed.preflights if each.generation == draft.generation]
    preflight = max(of_spec, key=lambda each: each.number, default=None)
    if preflight is None:
        _begin(observed, draft, limits)
    elif preflight.succeeded:
        draft.start_time = draft.now
        draft.set("Accepted", True, "Valid", "data, model, prompts and credentials are as they should be")
        return False
    elif preflight.failed is not None:
        _failed(job, preflight, observed, draft, limits)
    else:
        _follow(job, preflight, observed, draft, limits)
    return True


def _begin(observed: Observed, draft: Draft, limits: Limits, number: int = 1) -> None:
    said = _said(draft)
    if said == "Refused":
        return
    action = StartPreflight(draft.generation, number)
    denied = denial_of(action, observed)
    if denied is not None and denied.reason == INVALID:
        draft.set("Accepted", False, "Refused", denied.message)
        return
    if denied is not None:
        draft.set("Accepted", None, denied.reason, denied.message)
        if gives_up(denied, limits):
            finish(draft, succeeded=False, reason=denied.reason, message=f"the check cannot be made: {denied.message}")
            return
    elif said not in DENIALS:  # what an operator before this one was told holds until the check is there
        draft.set("Accepted", None, "Checking", _CHECKING)
    draft.do(action)


def _said(draft: Draft) -> str | None:
    """Reason of what was said of this very spec so far."""
    known = draft.conditions.get("Accepted")
    return known.reason if known and known.observed_generation == draft.generation else None


def _pods_of(preflight: PreflightView, observed: Observed) -> list[PodView]:
    """A Job names its pods by five letters after its own name."""
    return [pod for pod in observed.pods if pod.role == "preflight" and pod.name.rpartition("-")[0] == preflight.name]


def _follow(job: PromptInternJob, preflight: PreflightView, observed: Observed, draft: Draft, limits: Limits) -> None:
    if preflight.queued:
        draft.set("Accepted", None, "Queued", f"Kueue has not admitted the check, Job {preflight.name}, yet")
        return
    held_up = _held_up(preflight, _pods_of(preflight, observed), draft, limits)
    if held_up is None:
        draft.set("Accepted", None, "Checking", _CHECKING)
        return
    reason, message = held_up
    since = _since(reason, preflight, draft)
    draft.check_held_up_since = since
    if reason == _NO_POD and not draft.has_come(since + timedelta(seconds=limits.silent)):
        draft.set("Accepted", None, "Checking", _CHECKING)
        return
    draft.set("Accepted", None, reason, message)
    if not draft.has_come(since + timedelta(seconds=limits.stuck)):
        return
    if reason not in STUCK_BY_USER and preflight.number <= job.spec.retries.infrastructure:
        _begin(observed, draft, limits, preflight.number + 1)
    else:
        finish(draft, succeeded=False, reason=reason, message=f"the check could not start: {message}")
    if not preflight.deleting:
        draft.do(DeletePreflight(preflight.name, preflight.uid))


def _held_up(preflight: PreflightView, pods: list[PodView], draft: Draft, limits: Limits) -> tuple[str, str] | None:
    """Why the check does not get on, in a word and in a sentence; None if it does."""
    stuck = stuck_pod(pods)
    if stuck is not None:
        return stuck.reason, stuck.message
    if pods or preflight.started is None:
        return None
    if not draft.has_come(preflight.started + timedelta(seconds=limits.silent)):
        return None
    return _NO_POD, (
        f"the check, Job {preflight.name}, has no pod; the namespace's quota or an admission rule may refuse it: "
        f"kubectl describe job {preflight.name}"
    )


def _since(reason: str, preflight: PreflightView, draft: Draft) -> datetime:
    """Since when it is so: what the status says, if that was of this very check, and for the same reason.

    Checking is said before a reason is named, and again when the check is made anew.
    """
    known, said = draft.before.check_held_up_since, _said(draft)
    if (
        known is None
        or said not in (reason, "Checking")
        or (preflight.started is not None and known < preflight.started)
    ):
        return draft.now
    return known


def _failed(job: PromptInternJob, preflight: PreflightView, observed: Observed, draft: Draft, limits: Limits) -> None:
    """By the user's mistake, which a change of the spec mends; or because the check itself could not be made."""
    newest = max(_pods_of(preflight, observed), key=lambda pod: pod.created, default=None)
    container = newest.containers[0] if newest and newest.containers else None
    failed_at = preflight.failed_at or draft.now
    if container is None or container.exit_code is None:
        if _said(draft) == "Refused":
            return  # the pod that said why is gone since
        # Its watch may lag behind the Job's.
        if not draft.has_come(failed_at + timedelta(seconds=limits.silent)):
            draft.set("Accepted", None, "Checking", _CHECKING)
            return
    told = (container.exit_message if container else None) or preflight.failed or ""
    if container is not None and container.exit_code == USER_EXIT:
        draft.set("Accepted", False, "Refused", _findings(told))
        return
    lost = None if preflight.timed_out else _lost(newest, container, told)
    if lost is not None and preflight.number <= job.spec.retries.infrastructure:
        pause = timedelta(seconds=doubling(limits.retry, preflight.number, limits.retry_max))
        if draft.has_come(failed_at + pause):
            _begin(observed, draft, limits, preflight.number + 1)
        else:
            draft.set("Accepted", None, "CheckLost", f"the check is made again: {lost}")
        return
    told = lost or told
    if container is not None and container.exit_reason == "OOMKilled":
        told = f"the check passed its memory limit of {container.memory_limit}; raise it in the chart's values"
    draft.set("Accepted", False, "CheckFailed", told)
    finish(draft, succeeded=False, reason="CheckFailed", message=f"the job could not be checked: {told}")


def _lost(pod: PodView | None, container: ContainerView | None, told: str) -> str | None:
    """Why the check could come to no end, if that was neither the job's fault nor its own."""
    if pod is None or container is None or container.exit_code is None:
        return f"its pod is gone: {told}"
    taken = pod.disrupted or (pod.reason if pod.reason in NODE_TROUBLE else None)
    if taken is not None:
        return f"the cluster took pod {pod.name}: {taken}"
    if container.exit_code == INFRASTRUCTURE_EXIT:
        return _findings(told)
    if container.exit_code in _KILLED and container.exit_reason != "OOMKilled":
        return f"pod {pod.name} was killed"
    return None


def _findings(told: str) -> str:
    """The list of problems that the trainer leaves as its last message, one a line."""
    try:
        problems = json.loads(told)
        lines = [f"{problem['where']}: {problem['message']}".removeprefix(": ") for problem in problems]
        return "\n".join(lines) or told.strip()
    except (ValueError, TypeError, KeyError):
        return told.strip()
