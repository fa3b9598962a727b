"""Follow a running attempt, its RayJob and its head pod until the attempt ends."""

from datetime import timedelta

from promptintern_api import PromptInternJob
from promptintern_api.contract import RUN_FORMAT, PodRole
from promptintern_api.status import AttemptStatus, Outcome
from promptintern_api.training_status import Failure

from promptintern_operator.plan.attempts import pause_fields
from promptintern_operator.plan.classify import Ending, ending_of, is_running, is_stranded, last_states
from promptintern_operator.plan.cluster import follow_cluster, is_queued, set_quota_reserved
from promptintern_operator.plan.denials import DENIALS, INVALID, denial_of, should_give_up
from promptintern_operator.plan.draft import StatusDraft
from promptintern_operator.plan.endings import UNSUPPORTED_RUN_FORMAT, end_attempt
from promptintern_operator.plan.lifecycle import creation_message
from promptintern_operator.plan.types import DeleteRayJob, Limits, Observed, StartAttempt
from promptintern_operator.views import PodView, RayJobView


def follow_attempt(job: PromptInternJob, observed: Observed, draft: StatusDraft, limits: Limits) -> bool:
    """Update the running attempt in the status from the observed objects. Return True while the attempt continues."""
    attempt = draft.running_attempt
    if attempt is None or any(isinstance(action, StartAttempt) for action in draft.actions):
        return attempt is not None
    ray_job = next((view for view in observed.ray_jobs if view.name == attempt.ray_job_name), None)
    if ray_job is None:
        return _handle_missing_ray_job(attempt, observed, draft, limits)
    attempt = draft.update_attempt(ray_job_uid=ray_job.uid)
    pods = [pod for pod in observed.pods if _is_of(pod, ray_job)]
    ending = ending_of(ray_job, pods, _trainer_failure(job, draft), earlier_states=attempt.pods)
    if ray_job.deleting and (ending is None or _is_saving(draft)):
        message = f"RayJob {ray_job.name} is being deleted; KubeRay must be running to finish this"
        draft.set_condition("ClusterReady", False, "Deleting", message)
        return True
    if ending is not None:
        return _handle_ending(ending, ray_job, pods, draft, limits)
    if _is_saving(draft):
        draft.set_condition(
            "Training", False, "Starting", "spec.suspend was set back to false before the RayJob was deleted"
        )
    _track_head(pods, draft)
    cut_off = _unsupported_run_format(ray_job) or _end_if_head_lost(ray_job, pods, draft, limits)
    if cut_off is not None:
        end_attempt(draft, cut_off, pods)
        draft.add_action(DeleteRayJob(ray_job.name, ray_job.uid))
        return False
    _track_active_time(draft, waiting=is_queued(ray_job))
    set_quota_reserved(ray_job, observed, draft, limits)
    if pods:
        draft.update_attempt(pods=last_states(pods, draft.newest_attempt.pods if draft.newest_attempt else ()))
    failure = follow_cluster(ray_job, pods, draft, limits)
    if failure is not None:
        end_attempt(draft, failure, pods)
        draft.add_action(DeleteRayJob(ray_job.name, ray_job.uid))
    return failure is None


def _unsupported_run_format(ray_job: RayJobView) -> Ending | None:
    """Return how the attempt ends if another version of the operator created its RayJob, else None.

    The two versions store a run in different files, so no later attempt could continue this attempt.
    """
    if ray_job.run_format == RUN_FORMAT:
        return None
    message = (
        f"RayJob {ray_job.name} was created by another version of PromptIntern, whose runs have format "
        f"{ray_job.run_format or '1.0'} and not {RUN_FORMAT}; delete the PromptInternJob and create it again"
    )
    return Ending(outcome=Outcome.USER, reason=UNSUPPORTED_RUN_FORMAT, message=message)


def _handle_ending(
    ending: Ending, ray_job: RayJobView, pods: list[PodView], draft: StatusDraft, limits: Limits
) -> bool:
    if _awaits_pod_states(ending, ray_job, pods, draft, limits):
        return True
    end_attempt(draft, ending, pods)
    if ray_job.deployment == "ValidationFailed" and not ray_job.deleting:
        draft.add_action(DeleteRayJob(ray_job.name, ray_job.uid))
    return False


def _awaits_pod_states(
    ending: Ending, ray_job: RayJobView, pods: list[PodView], draft: StatusDraft, limits: Limits
) -> bool:
    """Return whether the operator should wait a moment for running pods to report why the attempt failed."""
    if ending.certain or ray_job.deleting or not any(is_running(pod) for pod in pods):
        return False
    attempt = draft.newest_attempt
    assert attempt is not None
    since = attempt.failure_seen_at or draft.now
    if draft.is_due(since + timedelta(seconds=limits.settle)):
        return False
    draft.update_attempt(failure_seen_at=since, pods=last_states(pods, attempt.pods))
    return True


def _handle_missing_ray_job(attempt: AttemptStatus, observed: Observed, draft: StatusDraft, limits: Limits) -> bool:
    if attempt.ray_job_uid is not None:
        if _is_saving(draft):
            ending = Ending(outcome=Outcome.SUSPENDED, reason="Suspended", message="spec.suspend was set to true")
        else:
            message = f"RayJob {attempt.ray_job_name} was deleted"
            ending = Ending(outcome=Outcome.INFRASTRUCTURE, reason="RayJobDeleted", message=message)
        end_attempt(draft, ending, ())
        return False
    if not observed.kuberay.usable:
        draft.set_condition("ClusterReady", False, observed.kuberay.reason, observed.kuberay.message)
        return True
    # The operator stopped before it created the RayJob, KubeRay was missing, or the API server denied it.
    action = StartAttempt(attempt.number)
    denial = denial_of(action, observed)
    if denial is not None:
        draft.set_condition("ClusterReady", False, denial.reason, denial.message)
        if denial.reason == INVALID:
            end_attempt(draft, Ending(outcome=Outcome.USER, reason=INVALID, message=denial.message), ())
            return False
        if should_give_up(denial, limits):
            message = f"gave up after {limits.stuck:.0f} s: {denial.message}"
            end_attempt(draft, Ending(outcome=Outcome.INFRASTRUCTURE, reason=denial.reason, message=message), ())
            return False
    elif draft.reason("ClusterReady") not in DENIALS:  # a denial stays reported until the RayJob exists
        draft.set_condition("ClusterReady", False, "Starting", creation_message(attempt.ray_job_name))
    draft.add_action(action)
    return True


def _is_of(pod: PodView, ray_job: RayJobView) -> bool:
    """Return whether ``pod`` belongs to ``ray_job``. While the RayJob has no cluster, no pod belongs to it yet."""
    return ray_job.cluster is not None and pod.cluster == ray_job.cluster


def _is_saving(draft: StatusDraft) -> bool:
    """Return whether spec.suspend caused the deletion of the RayJob, even if spec.suspend is false again now."""
    return draft.reason("Training") == "Suspended"


def _track_head(pods: list[PodView], draft: StatusDraft) -> None:
    """Count a new head pod and record its uid, because only the newest head pod may report the progress of training."""
    heads = [
        pod for pod in pods if pod.role == PodRole.HEAD and not pod.deleting and pod.phase in ("Pending", "Running")
    ]
    newest = max(heads, key=lambda pod: (pod.created, pod.uid), default=None)
    if newest is None or newest.uid == draft.head_uid:
        return
    assert draft.newest_attempt is not None
    draft.head_uid = newest.uid
    draft.update_attempt(head_pods=draft.newest_attempt.head_pods + 1, head_lost_at=None)


def _end_if_head_lost(ray_job: RayJobView, pods: list[PodView], draft: StatusDraft, limits: Limits) -> Ending | None:
    """Return how the attempt ends if its head pod is gone, else None.

    KubeRay 1.5 creates no new head pod and polls the lost one forever. A newer KubeRay may create a new head pod or
    report that the RayJob failed, and is given ``limits.silent`` seconds to do so.
    """
    attempt = draft.newest_attempt
    assert attempt is not None
    head = next((pod for pod in pods if pod.uid == draft.head_uid and pod.phase in ("Pending", "Running")), None)
    alive = head is not None and not is_stranded(head, draft.now, limits.silent)
    if alive and head is not None and head.deletion_due is not None:
        draft.requeue_by(head.deletion_due + timedelta(seconds=limits.silent))
    if draft.head_uid is None or alive or ray_job.deployment != "Running":
        if attempt.head_lost_at is not None:
            draft.update_attempt(head_lost_at=None)
        return None
    if attempt.head_lost_at is None:
        attempt = draft.update_attempt(head_lost_at=draft.now)
    assert attempt.head_lost_at is not None
    if not draft.is_due(attempt.head_lost_at + timedelta(seconds=limits.silent)):
        return None
    message = f"the head pod of RayJob {ray_job.name} was lost, together with the last seconds of its log"
    return Ending(outcome=Outcome.INFRASTRUCTURE, reason="HeadLost", message=message)


def _trainer_failure(job: PromptInternJob, draft: StatusDraft) -> Failure | None:
    """Return the failure that the trainer of the newest attempt reported, or None if it reported none."""
    training = job.status.training if job.status else None
    attempt = draft.newest_attempt
    if training is None or training.failure is None or attempt is None:
        return None
    return training.failure if training.failure.ray_job == attempt.ray_job_name else None


def _track_active_time(draft: StatusDraft, *, waiting: bool) -> None:
    attempt = draft.newest_attempt
    assert attempt is not None
    if waiting and attempt.active_since is not None:
        draft.update_attempt(**pause_fields(attempt, draft.now))
    elif not waiting and attempt.active_since is None:
        draft.update_attempt(active_since=draft.now)
