"""Derive the status of a job and the next actions from the observed objects of the job."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from promptintern_api import PromptInternJob
from promptintern_api.compute import StorageSpec
from promptintern_api.status import Outcome, PromptInternJobStatus
from promptintern_api.training_status import TrainingStatus, VerdictOutcome

from promptintern_operator.plan.attempts import active_seconds, pause_fields
from promptintern_operator.plan.denials import postpone_denied
from promptintern_operator.plan.draft import StatusDraft
from promptintern_operator.plan.endings import finish
from promptintern_operator.plan.lifecycle import finish_or_retry, start_attempt, suspend
from promptintern_operator.plan.preflight import check_preflight, remove_idle_check
from promptintern_operator.plan.retry import retry
from promptintern_operator.plan.running import follow_attempt
from promptintern_operator.plan.types import (
    DeleteJob,
    DeletePreflight,
    DeleteRayJob,
    Limits,
    Observed,
    Plan,
    StartAttempt,
    StartPreflight,
)
from promptintern_operator.views import RayJobView


def plan(
    job: PromptInternJob,
    observed: Observed,
    *,
    generation: int,
    now: datetime,
    limits: Limits,
    refusals: Sequence[str] = (),
    storage: StorageSpec | None = None,
    config_map: Callable[[], str | None] = lambda: None,
) -> Plan:
    """Return the status of ``job`` and the next actions.

    The plan is deterministic, and carrying it out twice has the same effect as carrying it out once.

    Args:
        job: The job with its current status.
        observed: The objects that belong to the job.
        generation: The generation of the job's spec.
        now: The current time, with a time zone.
        limits: The timeouts and backoffs.
        refusals: The reasons why the operator's settings do not allow the job in this cluster.
        storage: The storage for the results, which is recorded in the status if the job is accepted now.
        config_map: A function that returns the name of the ConfigMap for pods that start now. It is called only if some
            do, and the name is then recorded in the status.
    """
    draft = StatusDraft.from_status(job.status, generation=generation, now=now)
    training = job.status.training if job.status else None
    steps: list[Callable[[PromptInternJob, Observed, StatusDraft, Limits], bool]] = [
        retry,
        _is_over,
        lambda *_: _refuse(draft, refusals),
        check_preflight,
        suspend,
        start_attempt,
        follow_attempt,
        finish_or_retry,
    ]
    for step in steps:
        if step(job, observed, draft, limits):
            break
    if draft.start_time is not None and draft.storage is None:
        draft.storage = storage
    _check_deadline(job, draft)
    _remove_leftovers(observed, draft)
    remove_idle_check(observed, draft, limits)
    _report_leftovers(observed, draft)
    _delete_after_ttl(job, draft)
    _judge(training, draft)
    postpone_denied(observed, draft, limits)
    if any(isinstance(action, StartPreflight | StartAttempt) for action in draft.actions):
        draft.config_map = config_map()
    return draft.plan(training, stages=job.spec.schedule.num_stages)


def unreadable(status: PromptInternJobStatus | None, problems: str, *, generation: int, now: datetime) -> Plan | None:
    """Return the plan for a job that this operator cannot parse, or None if the job has already been accepted.

    Such a job may have been written for the CRD of a newer version.

    Args:
        status: The current status of the job.
        problems: The parser's messages.
        generation: The generation of the job's spec.
        now: The current time, with a time zone.
    """
    draft = StatusDraft.from_status(status, generation=generation, now=now)
    if draft.start_time is not None:
        return None
    draft.set_condition(
        "Accepted", False, "Unsupported", f"this version of the operator cannot read the job: {problems}"
    )
    return draft.plan(None, stages=0)


def _is_over(job: PromptInternJob, observed: Observed, draft: StatusDraft, limits: Limits) -> bool:
    return draft.completion_time is not None


def _refuse(draft: StatusDraft, refusals: Sequence[str]) -> bool:
    if draft.start_time is not None or not refusals:
        return False
    draft.set_condition("Accepted", False, "Unsupported", "\n".join(refusals))
    return True


def _check_deadline(job: PromptInternJob, draft: StatusDraft) -> None:
    deadline = job.spec.active_deadline_seconds
    if deadline is None or draft.completion_time is not None:
        return
    left = deadline - active_seconds(draft.attempts, draft.now)
    if left > 0:
        if draft.running_attempt is not None and draft.running_attempt.active_since is not None:
            draft.requeue_by(draft.now + timedelta(seconds=left))
        return
    message = (
        f"the job ran for as long as spec.activeDeadlineSeconds allows ({deadline} s); raise the field, and try "
        "the job again"
    )
    if draft.running_attempt is not None:
        draft.update_attempt(
            **pause_fields(draft.running_attempt, draft.now),
            outcome=Outcome.USER,
            finished_at=draft.now,
            message=message,
        )
        draft.attempt_ending = "DeadlineExceeded"
    finish(draft, succeeded=False, reason="DeadlineExceeded", message=message)


def _judge(training: TrainingStatus | None, draft: StatusDraft) -> None:
    """Report the verdict of a run that succeeded as condition Internalized."""
    if not draft.is_true("Succeeded") or training is None or training.result is None:
        draft.drop_condition("Internalized")
        return
    result = training.result
    match result.verdict:
        case VerdictOutcome.INTERNALIZED:
            draft.set_condition("Internalized", True, "Internalized", result.headline)
        case VerdictOutcome.NOT_INTERNALIZED:
            draft.set_condition("Internalized", False, "NotInternalized", result.headline)
        case VerdictOutcome.STOPPED_BY_GATE:
            draft.set_condition("Internalized", False, "StoppedByGate", result.headline)
        case VerdictOutcome.INCONCLUSIVE:
            draft.set_condition("Internalized", None, "Inconclusive", result.headline)


def _delete_after_ttl(job: PromptInternJob, draft: StatusDraft) -> None:
    ttl = job.spec.ttl_seconds_after_finished
    if ttl is None or draft.completion_time is None:
        return
    due = draft.completion_time + timedelta(seconds=ttl)
    if draft.now >= due and draft.previous.completion_time is not None:
        draft.add_action(DeleteJob())
    else:  # The plan that ends the job does not delete it, so that the end is written and recorded first.
        draft.requeue_by(due)


def _report_leftovers(observed: Observed, draft: StatusDraft) -> None:
    """Report the RayJobs of an ended or suspended job that are still waiting for KubeRay to remove their finalizer."""
    if draft.completion_time is None and not draft.is_true("Suspended"):
        return
    leaving = sorted(ray_job.name for ray_job in observed.ray_jobs if ray_job.deleting)
    if leaving:
        names = f"RayJob {leaving[0]} is" if len(leaving) == 1 else f"RayJobs {', '.join(leaving)} are"
        message = f"{names} being removed; KubeRay must be running to finish this"
        draft.set_condition("ClusterReady", False, "Removing", message)
    elif draft.reason("ClusterReady") in ("Removing", "DeleteFailed"):
        draft.set_condition("ClusterReady", False, "Ended", "the job has ended")


def _remove_leftovers(observed: Observed, draft: StatusDraft) -> None:
    """Delete the RayJobs of earlier attempts, preflights that are outdated or were replaced, and foreign objects.

    The RayJob of the newest attempt is kept while the attempt runs, and also afterwards if KubeRay reports that the
    RayJob has ended. All preflights of an ended job are deleted.
    """
    for foreign in observed.foreign:
        if not foreign.deleting:
            kind = DeleteRayJob if isinstance(foreign, RayJobView) else DeletePreflight
            draft.add_action(kind(foreign.name, foreign.uid))
    attempt = draft.newest_attempt
    for ray_job in observed.ray_jobs:
        current = attempt is not None and attempt.ray_job_name == ray_job.name
        ended_itself = ray_job.deployment in ("Complete", "Failed")
        is_kept = current and ((attempt is not None and attempt.outcome is None) or ended_itself)
        if not is_kept and not ray_job.deleting:
            draft.add_action(DeleteRayJob(ray_job.name, ray_job.uid))
    newest = max(((preflight.generation, preflight.number) for preflight in observed.preflights), default=None)
    for preflight in observed.preflights:
        older = (preflight.generation, preflight.number) != newest
        stale = draft.start_time is None and (older or preflight.generation != draft.generation)
        over = draft.completion_time is not None
        if (stale or over) and not preflight.deleting:
            draft.add_action(DeletePreflight(preflight.name, preflight.uid))
