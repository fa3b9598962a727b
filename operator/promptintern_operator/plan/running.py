"""An attempt while it goes on: its RayJob, its head pod, and how it ends."""

from datetime import timedelta

from promptintern_api import PromptInternJob
from promptintern_api.status import AttemptStatus, Outcome
from promptintern_api.training_status import Failure

from promptintern_operator.plan.attempts import paused
from promptintern_operator.plan.classify import Ending, ending_of, is_running, is_stranded, last_states
from promptintern_operator.plan.cluster import is_queued, note_cluster, note_quota
from promptintern_operator.plan.denied import DENIALS, INVALID, denial_of, gives_up
from promptintern_operator.plan.draft import Draft
from promptintern_operator.plan.endings import end_attempt
from promptintern_operator.plan.lifecycle import creating
from promptintern_operator.plan.types import DeleteRayJob, Limits, Observed, StartAttempt
from promptintern_operator.views import PodView, RayJobView


def follow_attempt(job: PromptInternJob, observed: Observed, draft: Draft, limits: Limits) -> bool:
    """What the running attempt's objects say. True while it goes on."""
    attempt = draft.running
    if attempt is None or any(isinstance(action, StartAttempt) for action in draft.actions):
        return attempt is not None
    ray_job = next((each for each in observed.ray_jobs if each.name == attempt.ray_job_name), None)
    if ray_job is None:
        return _without_ray_job(attempt, observed, draft, limits)
    attempt = draft.change_attempt(ray_job_uid=ray_job.uid)
    pods = [pod for pod in observed.pods if pod.role != "preflight" and _is_of(pod, ray_job)]
    ending = ending_of(ray_job, pods, _advice(job, draft), seen=attempt.pods)
    if ray_job.deleting and (ending is None or _is_saving(draft)):
        draft.set("ClusterReady", False, "Deleting", f"RayJob {ray_job.name} is being deleted; KubeRay must be running")
        return True
    if ending is not None:
        return _note_ending(ending, ray_job, pods, draft, limits)
    if _is_saving(draft):
        draft.set("Training", False, "Starting", "spec.suspend is false again before the RayJob was deleted")
    _note_head(pods, draft)
    lost = _head_lost(ray_job, pods, draft, limits)
    if lost is not None:
        end_attempt(draft, lost, pods)
        draft.do(DeleteRayJob(ray_job.name, ray_job.uid))
        return False
    _count_time(draft, waiting=is_queued(ray_job))
    note_quota(ray_job, observed, draft, limits)
    if pods:
        draft.change_attempt(pods=last_states(pods, draft.attempt.pods if draft.attempt else ()))
    given_up = note_cluster(ray_job, pods, draft, limits)
    if given_up is not None:
        end_attempt(draft, given_up, pods)
        draft.do(DeleteRayJob(ray_job.name, ray_job.uid))
    return given_up is None


def _note_ending(ending: Ending, ray_job: RayJobView, pods: list[PodView], draft: Draft, limits: Limits) -> bool:
    if _may_be_explained(ending, ray_job, pods, draft, limits):
        return True
    end_attempt(draft, ending, pods)
    if ray_job.deployment == "ValidationFailed" and not ray_job.deleting:
        draft.do(DeleteRayJob(ray_job.name, ray_job.uid))
    return False


def _may_be_explained(ending: Ending, ray_job: RayJobView, pods: list[PodView], draft: Draft, limits: Limits) -> bool:
    """Whether pods that still seem to run may say in a moment why the attempt failed, and so whose failure it was."""
    if ending.certain or ray_job.deleting or not any(is_running(pod) for pod in pods):
        return False
    attempt = draft.attempt
    assert attempt is not None
    since = attempt.failure_seen_at or draft.now
    if draft.has_come(since + timedelta(seconds=limits.settle)):
        return False
    draft.change_attempt(failure_seen_at=since, pods=last_states(pods, attempt.pods))
    return True


def _without_ray_job(attempt: AttemptStatus, observed: Observed, draft: Draft, limits: Limits) -> bool:
    if attempt.ray_job_uid is not None:
        if _is_saving(draft):
            ending = Ending(outcome=Outcome.SUSPENDED, reason="Suspended", message="spec.suspend")
        else:
            message = f"RayJob {attempt.ray_job_name} was deleted"
            ending = Ending(outcome=Outcome.INFRASTRUCTURE, reason="RayJobDeleted", message=message)
        end_attempt(draft, ending, ())
        return False
    if not observed.kuberay.usable:
        draft.set("ClusterReady", False, observed.kuberay.reason, observed.kuberay.message)
        return True
    # The operator stopped between deciding and doing, KubeRay was away, or the API server did not let it.
    action = StartAttempt(attempt.number)
    denied = denial_of(action, observed)
    if denied is not None:
        draft.set("ClusterReady", False, denied.reason, denied.message)
        if denied.reason == INVALID:
            end_attempt(draft, Ending(outcome=Outcome.USER, reason=INVALID, message=denied.message), ())
            return False
        if gives_up(denied, limits):
            message = f"waited {limits.stuck:.0f} s: {denied.message}"
            end_attempt(draft, Ending(outcome=Outcome.INFRASTRUCTURE, reason=denied.reason, message=message), ())
            return False
    elif draft.reason("ClusterReady") not in DENIALS:  # what was denied holds until the RayJob is there
        draft.set("ClusterReady", False, "Starting", creating(attempt.ray_job_name))
    draft.do(action)
    return True


def _is_of(pod: PodView, ray_job: RayJobView) -> bool:
    """While the RayJob has no cluster, the pods that are there are those of the attempt before."""
    return ray_job.cluster is not None and pod.cluster == ray_job.cluster


def _is_saving(draft: Draft) -> bool:
    """Whether the RayJob was to be deleted for spec.suspend, which may be false again since."""
    return draft.reason("Training") == "Suspended"


def _note_head(pods: list[PodView], draft: Draft) -> None:
    """A new head pod is a new incarnation, and the only one that may say how training goes."""
    heads = [pod for pod in pods if pod.role == "head" and not pod.deleting and pod.phase in ("Pending", "Running")]
    newest = max(heads, key=lambda pod: (pod.created, pod.uid), default=None)
    if newest is None or newest.uid == draft.head_uid:
        return
    assert draft.attempt is not None
    draft.head_uid = newest.uid
    draft.change_attempt(head_pods=draft.attempt.head_pods + 1, head_lost_at=None)


def _head_lost(ray_job: RayJobView, pods: list[PodView], draft: Draft, limits: Limits) -> Ending | None:
    """The end of an attempt whose head pod is gone: KubeRay (1.5) makes no other, and asks the lost one for ever.

    A newer KubeRay may make one, or say that the RayJob failed; it has ``limits.silent`` for that.
    """
    attempt = draft.attempt
    assert attempt is not None
    head = next((pod for pod in pods if pod.uid == draft.head_uid and pod.phase in ("Pending", "Running")), None)
    alive = head is not None and not is_stranded(head, draft.now, limits.silent)
    if alive and head is not None and head.deletion_due is not None:
        draft.wake_at(head.deletion_due + timedelta(seconds=limits.silent))
    if draft.head_uid is None or alive or ray_job.deployment != "Running":
        if attempt.head_lost_at is not None:
            draft.change_attempt(head_lost_at=None)
        return None
    if attempt.head_lost_at is None:
        attempt = draft.change_attempt(head_lost_at=draft.now)
    assert attempt.head_lost_at is not None
    if not draft.has_come(attempt.head_lost_at + timedelta(seconds=limits.silent)):
        return None
    message = f"the head pod of RayJob {ray_job.name} was lost, and the last seconds of its log with it"
    return Ending(outcome=Outcome.INFRASTRUCTURE, reason="HeadLost", message=message)


def _advice(job: PromptInternJob, draft: Draft) -> Failure | None:
    """What the trainer said of its failure, if it was this attempt's trainer."""
    training = job.status.training if job.status else None
    attempt = draft.attempt
    if training is None or training.failure is None or attempt is None:
        return None
    return training.failure if training.failure.ray_job == attempt.ray_job_name else None


def _count_time(draft: Draft, *, waiting: bool) -> None:
    attempt = draft.attempt
    assert attempt is not None
    if waiting and attempt.active_since is not None:
        draft.change_attempt(**paused(attempt, draft.now))
    elif not waiting and attempt.active_since is None:
        draft.change_attempt(active_since=draft.now)
