"""From a job and what is observed of it to its status and the next actions."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from promptintern_api import PromptInternJob
from promptintern_api.compute import StorageSpec
from promptintern_api.status import Outcome, PromptInternJobStatus

from promptintern_operator.plan.attempts import active_seconds, paused
from promptintern_operator.plan.denied import hold
from promptintern_operator.plan.draft import Draft
from promptintern_operator.plan.endings import finish
from promptintern_operator.plan.lifecycle import conclude, start, suspend
from promptintern_operator.plan.preflight import check_preflight
from promptintern_operator.plan.running import follow_attempt
from promptintern_operator.plan.types import DeleteJob, DeletePreflight, DeleteRayJob, Limits, Observed, Plan


def plan(
    job: PromptInternJob,
    observed: Observed,
    *,
    generation: int,
    now: datetime,
    limits: Limits,
    refusals: Sequence[str] = (),
    storage: StorageSpec | None = None,
) -> Plan:
    """What is true of ``job`` now and what to do next.

    The same arguments give the same plan, and carrying a plan out twice does no more than once.

    Args:
        generation: Of the job's spec.
        now: The time, with a zone.
        refusals: Why this cluster cannot run the job, as far as the settings tell.
        storage: Where the results of a job go that is accepted now.
    """
    draft = Draft.of(job.status, generation=generation, now=now)
    training = job.status.training if job.status else None
    steps: list[Callable[[PromptInternJob, Observed, Draft, Limits], bool]] = [
        _after_end,
        lambda *_: _refused(draft, refusals),
        check_preflight,
        suspend,
        start,
        follow_attempt,
        conclude,
    ]
    for step in steps:
        if step(job, observed, draft, limits):
            break
    if draft.start_time is not None and draft.storage is None:
        draft.storage = storage
    _check_deadline(job, draft)
    _remove_leftovers(observed, draft)
    _note_leftovers(observed, draft)
    _delete_in_time(job, draft)
    hold(observed, draft, limits)
    return draft.plan(training, stages=job.spec.schedule.num_stages)


def unreadable(status: PromptInternJobStatus | None, problems: str, *, generation: int, now: datetime) -> Plan | None:
    """What is said of a job that this operator cannot read, such as one of a newer CRD; None if it has begun.

    Args:
        status: The job's.
    """
    draft = Draft.of(status, generation=generation, now=now)
    if draft.start_time is not None:
        return None
    draft.set("Accepted", False, "Unsupported", f"this version of the operator cannot read the job: {problems}")
    return draft.plan(None, stages=0)


def _after_end(job: PromptInternJob, observed: Observed, draft: Draft, limits: Limits) -> bool:
    return draft.before.completion_time is not None


def _refused(draft: Draft, refusals: Sequence[str]) -> bool:
    if draft.start_time is not None or not refusals:
        return False
    draft.set("Accepted", False, "Unsupported", "\n".join(refusals))
    return True


def _check_deadline(job: PromptInternJob, draft: Draft) -> None:
    deadline = job.spec.active_deadline_seconds
    if deadline is None or draft.completion_time is not None:
        return
    left = deadline - active_seconds(draft.attempts, draft.now)
    if left > 0:
        if draft.running is not None and draft.running.active_since is not None:
            draft.wake_at(draft.now + timedelta(seconds=left))
        return
    message = (
        f"the job ran for spec.activeDeadlineSeconds ({deadline} s); it can be raised while a job runs, not afterwards"
    )
    if draft.running is not None:
        draft.change_attempt(
            **paused(draft.running, draft.now), outcome=Outcome.USER, finished_at=draft.now, message=message
        )
    finish(draft, succeeded=False, reason="DeadlineExceeded", message=message)


def _delete_in_time(job: PromptInternJob, draft: Draft) -> None:
    ttl = job.spec.ttl_seconds_after_finished
    if ttl is None or draft.completion_time is None:
        return
    due = draft.completion_time + timedelta(seconds=ttl)
    if draft.now >= due and draft.before.completion_time is not None:
        draft.do(DeleteJob())
    else:  # at least one look later, so that the end is written and told
        draft.wake_at(due)


def _note_leftovers(observed: Observed, draft: Draft) -> None:
    """Where nothing is to run any more, say which RayJobs KubeRay has yet to let go: its finalizer is on them."""
    if draft.completion_time is None and not draft.is_true("Suspended"):
        return
    leaving = sorted(ray_job.name for ray_job in observed.ray_jobs if ray_job.deleting)
    if leaving:
        message = f"RayJob {', '.join(leaving)} is being removed; KubeRay must be running for that"
        draft.set("ClusterReady", False, "Removing", message)
    elif draft.reason("ClusterReady") in ("Removing", "DeleteFailed"):
        draft.set("ClusterReady", False, "Ended", "the job is over")


def _remove_leftovers(observed: Observed, draft: Draft) -> None:
    """RayJobs of attempts that are over, unless it is the newest and ended by itself; preflights of older specs, and
    those that were made again.
    """
    attempt = draft.attempt
    for ray_job in observed.ray_jobs:
        current = attempt is not None and attempt.ray_job_name == ray_job.name
        ended_itself = ray_job.deployment in ("Complete", "Failed")
        wanted = current and ((attempt is not None and attempt.outcome is None) or ended_itself)
        action = DeleteRayJob(ray_job.name, ray_job.uid)
        if not wanted and not ray_job.deleting and action not in draft.actions:
            draft.do(action)
    newest = max(((each.generation, each.number) for each in observed.preflights), default=None)
    for preflight in observed.preflights:
        older = (preflight.generation, preflight.number) != newest
        stale = draft.start_time is None and (older or preflight.generation != draft.generation)
        over = draft.completion_time is not None
        delete = DeletePreflight(preflight.name, preflight.uid)
        if (stale or over) and not preflight.deleting and delete not in draft.actions:
            draft.do(delete)
