"""Whether the job may start: the preflight Job runs `promptintern validate` with the job's own credentials."""

import json
from datetime import timedelta

from promptintern_api import PromptInternJob

from promptintern_operator.plan.classify import stuck_pod
from promptintern_operator.plan.denied import DENIALS, denial_of, gives_up
from promptintern_operator.plan.draft import Draft
from promptintern_operator.plan.endings import finish
from promptintern_operator.plan.types import DeletePreflight, Limits, Observed, StartPreflight
from promptintern_operator.views import PodView, PreflightView

_USER = 2
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
    preflight = next((each for each in observed.preflights if each.generation == draft.generation), None)
    if preflight is None:
        _begin(observed, draft, limits)
    elif preflight.succeeded:
        draft.start_time = draft.now
        draft.set("Accepted", True, "Valid", "data, model, prompts and credentials are as they should be")
        return False
    else:
        _follow(preflight, observed, draft, limits)
    return True


def _begin(observed: Observed, draft: Draft, limits: Limits) -> None:
    known = draft.conditions.get("Accepted")
    said = known.reason if known and known.observed_generation == draft.generation else None
    if said == "Refused":
        return
    action = StartPreflight(draft.generation)
    denied = denial_of(action, observed)
    if denied is not None:
        draft.set("Accepted", None, denied.reason, denied.message)
        if gives_up(denied, draft, limits):
            finish(draft, succeeded=False, reason=denied.reason, message=f"the check cannot be made: {denied.message}")
            return
    elif said not in DENIALS:  # what an operator before this one was told holds until the check is there
        draft.set("Accepted", None, "Checking", _CHECKING)
    draft.do(action)


def _follow(preflight: PreflightView, observed: Observed, draft: Draft, limits: Limits) -> None:
    pods = [pod for pod in observed.pods if pod.role == "preflight" and pod.name.startswith(f"{preflight.name}-")]
    stuck = stuck_pod(pods)
    if preflight.failed is not None:
        _failed(draft, preflight, pods, limits)
    elif stuck is None:
        draft.set("Accepted", None, "Checking", _CHECKING)
    elif draft.now < (due := stuck.pod.created + timedelta(seconds=limits.stuck)):
        draft.set("Accepted", None, stuck.reason, stuck.message)
        draft.wake_at(due)
    else:
        draft.set("Accepted", None, stuck.reason, stuck.message)
        finish(draft, succeeded=False, reason=stuck.reason, message=f"the check could not start: {stuck.message}")
        if not preflight.deleting:
            draft.do(DeletePreflight(preflight.name, preflight.uid))


def _failed(draft: Draft, preflight: PreflightView, pods: list[PodView], limits: Limits) -> None:
    """By the user's mistake, which a change of the spec mends; or because the check itself could not be made."""
    newest = max(pods, key=lambda pod: pod.created, default=None)
    container = newest.containers[0] if newest and newest.containers else None
    if container is None or container.exit_code is None:  # the pod's watch may lag behind the Job's
        due = (preflight.failed_at or draft.now) + timedelta(seconds=limits.silent)
        if draft.now < due:
            draft.set("Accepted", None, "Checking", _CHECKING)
            draft.wake_at(due)
            return
    told = (container.exit_message if container else None) or preflight.failed or ""
    if container is not None and container.exit_code == _USER:
        draft.set("Accepted", False, "Refused", _findings(told))
        return
    if container is not None and container.exit_reason == "OOMKilled":
        told = f"the check passed its memory limit of {container.memory_limit}; raise it in the chart's values"
    draft.set("Accepted", False, "CheckFailed", told)
    finish(draft, succeeded=False, reason="CheckFailed", message=f"the job could not be checked: {told}")


def _findings(told: str) -> str:
    """The list of problems that the trainer leaves as its last message, one a line."""
    try:
        problems = json.loads(told)
        return "\n".join(f"{problem['where']}: {problem['message']}" for problem in problems) or told.strip()
    except (ValueError, TypeError, KeyError):
        return told.strip()
