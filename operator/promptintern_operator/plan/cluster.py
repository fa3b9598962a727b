"""Follow the quota and the Ray cluster of a running attempt, and give up an attempt whose cluster does not come up."""

from datetime import datetime, timedelta

from promptintern_api.status import AttemptStatus, Outcome

from promptintern_operator.plan.classify import (
    STUCK,
    STUCK_BY_USER,
    Ending,
    is_being_prepared,
    killed_for_memory,
    stuck_pod,
)
from promptintern_operator.plan.denials import denial_reason
from promptintern_operator.plan.draft import StatusDraft
from promptintern_operator.plan.types import Limits, Observed
from promptintern_operator.views import PodView, RayJobView

_INITIALIZING = "Initializing"


def is_queued(ray_job: RayJobView) -> bool:
    """Return whether Kueue has not admitted ``ray_job``, or is reclaiming the quota of its cluster."""
    return ray_job.suspended or ray_job.deployment in ("Suspended", "Suspending")


def set_quota_reserved(ray_job: RayJobView, observed: Observed, draft: StatusDraft, limits: Limits) -> None:
    """Set condition QuotaReserved if the attempt began in a queue; otherwise drop the condition."""
    queue = ray_job.queue
    if queue is None:
        draft.drop_condition("QuotaReserved")
        return
    workload = next((workload for workload in observed.workloads if workload.ray_job_uid == ray_job.uid), None)
    if workload is None:
        if draft.is_due(ray_job.created + timedelta(seconds=limits.queue)):
            message = (
                f"Kueue has not created a Workload for RayJob {ray_job.name}; check that Kueue is running and that "
                f"queue {queue} exists"
            )
            draft.set_condition("QuotaReserved", False, "QueueUnavailable", message)
        else:
            draft.set_condition("QuotaReserved", False, "Pending", f"the job is waiting for Kueue and queue {queue}")
    elif workload.evicted is not None and not workload.quota_reserved:
        draft.set_condition(
            "QuotaReserved", False, workload.evicted, f"queue {queue} reclaimed the quota: {workload.message}"
        )
    elif workload.quota_reserved:
        draft.set_condition("QuotaReserved", True, "QuotaReserved", f"queue {queue} admitted the job")
    else:
        draft.set_condition(
            "QuotaReserved", False, "Pending", f"queue {queue}: {workload.message or 'the job is waiting for quota'}"
        )


def follow_cluster(ray_job: RayJobView, pods: list[PodView], draft: StatusDraft, limits: Limits) -> Ending | None:
    """Set conditions ClusterReady and Training, and return how the attempt ends if its cluster cannot come up."""
    if is_queued(ray_job):
        _clear_held_up(draft)
        saving = ray_job.deployment == "Suspending"
        draft.set_condition(
            "ClusterReady",
            False,
            "Queued",
            "the Ray cluster is being released" if saving else "the job is waiting for quota",
        )
        draft.set_condition(
            "Training",
            False,
            "Queued",
            "the trainer saved, and the job is waiting for quota" if draft.head_uid else "the job is waiting for quota",
        )
        return None
    stuck = stuck_pod(pods)
    reason = draft.reason("ClusterReady")
    if (stuck.reason if stuck else None) != (reason if reason in STUCK else None):
        _clear_held_up(draft)
    if stuck is not None:
        draft.set_condition("ClusterReady", False, stuck.reason, stuck.message)
        by_user = stuck.reason in STUCK_BY_USER
        outcome = Outcome.USER if by_user else Outcome.INFRASTRUCTURE
        timeout_ending = Ending(
            outcome=outcome, reason=stuck.reason, message=f"gave up after {limits.stuck:.0f} s: {stuck.message}"
        )
        return _end_if_held_up(timeout_ending, draft, limits)
    if not ray_job.deployment:
        if draft.is_due(ray_job.created + timedelta(seconds=limits.silent)):
            message = f"KubeRay has not picked up RayJob {ray_job.name}; check that the KubeRay operator is running"
            draft.set_condition("ClusterReady", False, "KubeRaySilent", message)
        else:
            draft.set_condition("ClusterReady", False, "Starting", f"RayJob {ray_job.name} is waiting for KubeRay")
        return None
    _report_pods(ray_job, pods, draft)
    if ray_job.job_status == "RUNNING":
        attempt = draft.newest_attempt
        assert attempt is not None
        draft.set_condition(
            "Training", True, "Running", f"attempt {attempt.number} is running as RayJob {ray_job.name}"
        )
    if ray_job.deployment == _INITIALIZING:
        return _end_if_not_up(ray_job, pods, draft, limits)
    _clear_held_up(draft)
    return _end_if_not_submitted(ray_job, draft, limits)


def _report_pods(ray_job: RayJobView, pods: list[PodView], draft: StatusDraft) -> None:
    staying = [pod for pod in pods if not pod.deleting]
    ready = sum(pod.ready for pod in pods)
    refusal = _pod_refusal(ray_job)
    if refusal is not None:
        draft.set_condition("ClusterReady", False, *refusal)
    elif ray_job.deployment == "Running" and staying and all(pod.ready for pod in staying):
        draft.set_condition("ClusterReady", True, "Ready", f"Ray cluster {ray_job.cluster} is up")
    elif pods or not draft.is_true("ClusterReady"):
        assert draft.newest_attempt is not None
        why = f"; {failure}" if (failure := _pod_failure(draft.newest_attempt)) else ""
        draft.set_condition(
            "ClusterReady", False, "Starting", f"{ready} of {len(pods)} pods of the Ray cluster are ready{why}"
        )


def _end_if_not_up(ray_job: RayJobView, pods: list[PodView], draft: StatusDraft, limits: Limits) -> Ending | None:
    """Return how the attempt ends if its cluster cannot come up, else None.

    Otherwise, KubeRay would recreate failed pods forever.
    """
    attempt = draft.newest_attempt
    assert attempt is not None
    out_of_memory = killed_for_memory(pods)
    if out_of_memory is not None:
        return Ending(outcome=Outcome.APPLICATION, reason="OutOfMemory", message=out_of_memory)
    failure = _pod_failure(attempt)
    if attempt.active_since is None or any(is_being_prepared(pod) for pod in pods):
        # A pod that replaces a failed pod does not count as progress.
        if failure is None:
            _clear_held_up(draft)
        return None
    refusal = _pod_refusal(ray_job)
    if refusal is not None:
        reason, message = refusal[0], f"gave up after {limits.stuck:.0f} s: {refusal[1]}"
    else:
        reason = "ClusterNotUp"
        unready = next((f"pod {pod.name} is {pod.phase} but not ready" for pod in pods if not pod.ready), None)
        why = failure or unready or "KubeRay created no pod"
        message = f"the Ray cluster did not come up within {limits.stuck:.0f} s: {why}"
    timeout_ending = Ending(outcome=Outcome.INFRASTRUCTURE, reason=reason, message=message)
    return _end_if_held_up(timeout_ending, draft, limits)


def _end_if_not_submitted(ray_job: RayJobView, draft: StatusDraft, limits: Limits) -> Ending | None:
    """Return how the attempt ends if KubeRay cannot reach the cluster, else None.

    Otherwise, KubeRay would retry forever and report nothing.
    """
    ready = draft.conditions.get("ClusterReady")
    if ray_job.job_status or ray_job.deployment != "Running" or ready is None or ready.status != "True":
        return None
    where = f" in namespace {limits.kuberay_namespace}" if limits.kuberay_namespace else ""
    detail = (
        f"the Ray cluster is up, but KubeRay has not submitted RayJob {ray_job.name} to it; check that KubeRay is "
        f"running{where} (the chart's kuberayNamespace), and that no network policy keeps it from port 8265 of the "
        "head pod"
    )
    if draft.is_due(ready.last_transition_time + timedelta(seconds=limits.silent)):
        draft.set_condition("Training", False, "NotSubmitted", detail)
    message = f"gave up after {limits.stuck:.0f} s: {detail}"
    timeout_ending = Ending(outcome=Outcome.INFRASTRUCTURE, reason="NotSubmitted", message=message)
    return _after_timeout(timeout_ending, ready.last_transition_time, draft, limits)


def _pod_refusal(ray_job: RayJobView) -> tuple[str, str] | None:
    """Return the reason and the message if the API server rejects pods of the cluster, else None."""
    if ray_job.pod_refusal is None:
        return None
    reason = denial_reason(ray_job.pod_refusal, default="PodsRefused")
    return reason, f"KubeRay cannot create or delete a pod: {ray_job.pod_refusal}"


def _end_if_held_up(timeout_ending: Ending, draft: StatusDraft, limits: Limits) -> Ending | None:
    """Return ``timeout_ending`` once the attempt has been held up for ``limits.stuck`` seconds, else None.

    The time is not counted from the start of the attempt, because creating a node and pulling an image may take longer.
    """
    attempt = draft.newest_attempt
    assert attempt is not None
    since = attempt.held_up_since or draft.now
    if attempt.held_up_since is None:
        draft.update_attempt(held_up_since=since)
    return _after_timeout(timeout_ending, since, draft, limits)


def _clear_held_up(draft: StatusDraft) -> None:
    if draft.newest_attempt is not None and draft.newest_attempt.held_up_since is not None:
        draft.update_attempt(held_up_since=None)


def _after_timeout(timeout_ending: Ending, since: datetime, draft: StatusDraft, limits: Limits) -> Ending | None:
    """Return ``timeout_ending`` once ``limits.stuck`` seconds have passed after ``since``, else None."""
    return timeout_ending if draft.is_due(since + timedelta(seconds=limits.stuck)) else None


def _pod_failure(attempt: AttemptStatus) -> str | None:
    """Describe a pod, removed or not, that failed after the attempt was admitted; return None if no pod failed."""
    for state in attempt.pods:
        earlier = state.finished_at is not None and attempt.active_since and state.finished_at < attempt.active_since
        if earlier or not (state.exit_code or state.phase == "Failed"):
            continue
        words = [state.reason or "ended"]
        words += [f"exit code {state.exit_code}"] if state.exit_code else []
        words += [state.message] if state.message else []
        return f"pod {state.name}: {', '.join(words)}"
    return None
