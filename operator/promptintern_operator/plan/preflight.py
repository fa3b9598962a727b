"""Decide whether a job may start. A preflight Job runs `promptintern validate` with the job's own credentials."""

import json
import signal
from datetime import datetime, timedelta

from promptintern_api import PromptInternJob
from promptintern_api.contract import ExitCode

from promptintern_operator.plan.attempts import backoff
from promptintern_operator.plan.classify import (
    NODE_TROUBLE,
    STUCK_BY_USER,
    removal,
    stuck_pod,
)
from promptintern_operator.plan.denials import DENIALS, INVALID, denial_of, should_give_up
from promptintern_operator.plan.draft import StatusDraft
from promptintern_operator.plan.endings import finish
from promptintern_operator.plan.types import DeletePreflight, Limits, Observed, StartPreflight
from promptintern_operator.views import ContainerView, PodView, PreflightView

_ENDED_BY_SIGNAL = (128 + signal.SIGKILL, ExitCode.TERMINATED)
"""The exit codes of a container whose process was ended by SIGKILL or SIGTERM."""
_ALIVE = ("Pending", "Running")
"""The phases of a pod with a container that goes on, or that never starts."""
_NO_POD = "CheckHasNoPod"
_CHECKING = "data, model, prompts and credentials are being checked"


def check_preflight(job: PromptInternJob, observed: Observed, draft: StatusDraft, limits: Limits) -> bool:
    """Check the job with a preflight, and set condition Accepted. Return True while the job must not continue."""
    if draft.start_time is not None:
        return False
    if job.spec.suspend:
        draft.set_condition("Suspended", True, "Suspended", "spec.suspend is true; set it to false to start the job")
        return True
    if "Suspended" in draft.conditions:
        draft.set_condition("Suspended", False, "Resumed", "spec.suspend is false again")
    first = (draft.retried_after_check or 0) + 1
    current = [c for c in observed.preflights if c.generation == draft.generation and c.number >= first]
    preflight = max(current, key=lambda check: check.number, default=None)
    if preflight is not None:
        draft.check_uid = preflight.uid
    if preflight is None:
        _start_check(observed, draft, limits, first)
    elif preflight.succeeded or _check_exit_code(preflight, observed) == ExitCode.DONE:
        draft.start_time = draft.now
        draft.set_condition("Accepted", True, "Valid", "data, model, prompts and credentials passed the check")
        return False
    elif preflight.failed is not None or _has_failed_beside_others(preflight, observed, draft, limits):
        _handle_failure(job, preflight, observed, draft, limits)
    else:
        _follow_check(job, preflight, observed, draft, limits)
    return True


def _start_check(observed: Observed, draft: StatusDraft, limits: Limits, number: int) -> None:
    reason = _current_reason(draft)
    if reason == "Refused":
        return
    action = StartPreflight(draft.generation, number)
    denial = denial_of(action, observed)
    if denial is not None and denial.reason == INVALID:
        draft.set_condition("Accepted", False, "Refused", denial.message)
        return
    if denial is not None:
        draft.set_condition("Accepted", None, denial.reason, denial.message)
        if should_give_up(denial, limits):
            finish(
                draft,
                succeeded=False,
                reason=denial.reason,
                message=f"the check could not be created: {denial.message}",
            )
            return
    elif reason not in DENIALS:  # a denial that an earlier operator reported stays until the check exists
        draft.set_condition("Accepted", None, "Checking", _CHECKING)
    draft.add_action(action)


def _current_reason(draft: StatusDraft) -> str | None:
    """Return the reason of condition Accepted if it is about this generation of the spec, else None."""
    condition = draft.conditions.get("Accepted")
    return condition.reason if condition and condition.observed_generation == draft.generation else None


def _tries(preflight: PreflightView, draft: StatusDraft) -> int:
    """Return how many checks there were since the newest requested retry, together with this one."""
    return preflight.number - (draft.retried_after_check or 0)


def _check_exit_code(preflight: PreflightView, observed: Observed) -> int | None:
    """Return the exit code of the check in its newest pod, or None if it has not ended.

    The Job succeeds only once all containers of the pod have ended. If the cluster injects a container that goes on,
    such as the proxy of a service mesh, this never happens.
    """
    newest = _newest_pod(preflight, observed)
    return newest.main.exit_code if newest is not None and newest.main is not None else None


def _has_failed_beside_others(preflight: PreflightView, observed: Observed, draft: StatusDraft, limits: Limits) -> bool:
    """Return whether the check has failed while another container keeps its pod, and thereby its Job, alive."""
    since = _idle_since(preflight, observed)
    if since is None:
        return False
    # Without other containers, the kubelet reports the end of the pod soon after the end of the check.
    is_refused = _check_exit_code(preflight, observed) == ExitCode.USER_ERROR
    return is_refused or draft.is_due(since + timedelta(seconds=limits.silent))


def remove_idle_check(observed: Observed, draft: StatusDraft, limits: Limits) -> None:
    """Delete a check that accepted or refused the job but whose pod another container keeps alive, after a while."""
    if draft.start_time is None and _current_reason(draft) != "Refused":
        return
    for preflight in observed.preflights:
        since = _idle_since(preflight, observed)
        is_over = preflight.succeeded or preflight.failed is not None or preflight.deleting
        if since is not None and not is_over and draft.is_due(since + timedelta(seconds=limits.silent)):
            draft.add_action(DeletePreflight(preflight.name, preflight.uid))


def _idle_since(preflight: PreflightView, observed: Observed) -> datetime | None:
    """Return when the check ended in a pod that is still alive, or None if it has not ended or the pod has."""
    newest = _newest_pod(preflight, observed)
    if newest is None or newest.main is None or newest.main.exit_code is None or newest.phase not in _ALIVE:
        return None
    return newest.main.ended_at or newest.created


def _newest_pod(preflight: PreflightView, observed: Observed) -> PodView | None:
    return max(_pods_of(preflight, observed), key=lambda pod: pod.created, default=None)


def _pods_of(preflight: PreflightView, observed: Observed) -> list[PodView]:
    return [pod for pod in observed.pods if pod.preflight_uid == preflight.uid]


def _follow_check(
    job: PromptInternJob, preflight: PreflightView, observed: Observed, draft: StatusDraft, limits: Limits
) -> None:
    if preflight.queued:
        draft.set_condition("Accepted", None, "Queued", f"Kueue has not yet admitted the check (Job {preflight.name})")
        return
    held_up = _hold_up_reason(preflight, _pods_of(preflight, observed), draft, limits)
    if held_up is None:
        draft.set_condition("Accepted", None, "Checking", _CHECKING)
        return
    reason, message = held_up
    since = _held_up_since(reason, preflight, draft)
    draft.check_held_up_since = since
    if reason == _NO_POD and not draft.is_due(since + timedelta(seconds=limits.silent)):
        draft.set_condition("Accepted", None, "Checking", _CHECKING)
        return
    draft.set_condition("Accepted", None, reason, message)
    if not draft.is_due(since + timedelta(seconds=limits.stuck)):
        return
    if reason not in STUCK_BY_USER and _tries(preflight, draft) <= job.spec.retries.infrastructure:
        _start_check(observed, draft, limits, preflight.number + 1)
    else:
        finish(draft, succeeded=False, reason=reason, message=f"the check could not start: {message}")
    if not preflight.deleting:
        draft.add_action(DeletePreflight(preflight.name, preflight.uid))


def _hold_up_reason(
    preflight: PreflightView, pods: list[PodView], draft: StatusDraft, limits: Limits
) -> tuple[str, str] | None:
    """Return the reason and the message if the check makes no progress, else None."""
    stuck = stuck_pod(pods)
    if stuck is not None:
        return stuck.reason, stuck.message
    if pods or preflight.started is None:
        return None
    if not draft.is_due(preflight.started + timedelta(seconds=limits.silent)):
        return None
    return _NO_POD, (
        f"the check (Job {preflight.name}) has no pod; a quota or an admission policy of the namespace may reject it; "
        f"to see why, run: kubectl describe job {preflight.name}"
    )


def _held_up_since(reason: str, preflight: PreflightView, draft: StatusDraft) -> datetime:
    """Return the time since which ``reason`` has held up this check.

    The time in the status counts only if it belongs to this check and to the same reason. The reason Checking is
    accepted too, because condition Accepted has this reason until the cause is known, and again after the check has
    been recreated.
    """
    since, current_reason = draft.previous.check_held_up_since, _current_reason(draft)
    if (
        since is None
        or current_reason not in (reason, "Checking")
        or (preflight.started is not None and since < preflight.started)
    ):
        return draft.now
    return since


def _handle_failure(
    job: PromptInternJob, preflight: PreflightView, observed: Observed, draft: StatusDraft, limits: Limits
) -> None:
    """Handle a check that failed, either because the spec has a mistake or because the check did not finish."""
    newest = _newest_pod(preflight, observed)
    container = newest.main if newest is not None else None
    failed_at = preflight.failed_at or (container.ended_at if container is not None else None) or draft.now
    if container is None or container.exit_code is None:
        if _current_reason(draft) == "Refused":
            return  # the pod that reported the reason is gone
        # The watch of pods may lag behind the watch of Jobs.
        if not draft.is_due(failed_at + timedelta(seconds=limits.silent)):
            draft.set_condition("Accepted", None, "Checking", _CHECKING)
            return
    message = (container.exit_message if container else None) or preflight.failed or ""
    if container is not None and container.exit_code == ExitCode.USER_ERROR:
        draft.set_condition("Accepted", False, "Refused", _findings(message))
        return
    lost = None if preflight.timed_out else _loss_reason(newest, container, message)
    tries = _tries(preflight, draft)
    if lost is not None and tries <= job.spec.retries.infrastructure:
        pause = timedelta(seconds=backoff(limits.retry, tries, limits.retry_max))
        if draft.is_due(failed_at + pause):
            _start_check(observed, draft, limits, preflight.number + 1)
        else:
            draft.set_condition("Accepted", None, "CheckLost", f"the check did not finish and will run again: {lost}")
        return
    message = lost or message
    if container is not None and container.exit_reason == "OOMKilled":
        message = (
            f"the check exceeded its memory limit of {container.memory_limit}; raise podSizes.preflight in the chart's "
            "values"
        )
    draft.set_condition("Accepted", False, "CheckFailed", message)
    finish(draft, succeeded=False, reason="CheckFailed", message=f"the job could not be checked: {message}")


def _loss_reason(pod: PodView | None, container: ContainerView | None, message: str) -> str | None:
    """Return why the check was lost through no fault of the job or of the check, or None if it was not lost."""
    if pod is None or container is None or container.exit_code is None:
        return f"its pod is gone: {message}"
    removal_reason = pod.disrupted or (pod.reason if pod.reason in NODE_TROUBLE else None)
    if removal_reason is not None:
        return f"the cluster removed {removal(pod, removal_reason)}"
    if container.exit_code == ExitCode.INFRASTRUCTURE:
        return _findings(message)
    if container.exit_code in _ENDED_BY_SIGNAL and container.exit_reason != "OOMKilled":
        return f"pod {pod.name} was killed"
    return None


def _findings(message: str) -> str:
    """Return the problems in the termination message of the check, one per line."""
    try:
        problems = json.loads(message)
        lines = [f"{problem['where']}: {problem['message']}".removeprefix(": ") for problem in problems]
        return "\n".join(lines) or message.strip()
    except (ValueError, TypeError, KeyError):
        return message.strip()
