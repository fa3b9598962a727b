"""The steps between attempts: suspend the job, start an attempt, and finish or retry after one has ended."""

from datetime import timedelta

from promptintern_api import PromptInternJob
from promptintern_api.status import AttemptStatus, Outcome

from promptintern_operator.plan.attempts import active_seconds, is_spent, next_start, pause_fields, ray_job_name
from promptintern_operator.plan.classify import Ending, ending_of, is_stranded
from promptintern_operator.plan.draft import StatusDraft
from promptintern_operator.plan.endings import UNSUPPORTED_RUN_FORMAT, end_attempt, finish
from promptintern_operator.plan.types import DeleteRayJob, Limits, Observed, StartAttempt
from promptintern_operator.views import RayJobView


def suspend(job: PromptInternJob, observed: Observed, draft: StatusDraft, limits: Limits) -> bool:
    """Suspend or resume the job according to ``spec.suspend``. Return True while the job must not continue."""
    if not job.spec.suspend:
        if "Suspended" in draft.conditions:
            draft.set_condition("Suspended", False, "Resumed", "spec.suspend is false again")
        return False
    attempt = draft.running_attempt
    if attempt is not None:
        ray_job = next((view for view in observed.ray_jobs if view.name == attempt.ray_job_name), None)
        of_clusters = [pod for pod in observed.pods if pod.cluster is not None]
        pods = [pod for pod in of_clusters if not is_stranded(pod, draft.now, limits.silent)]
        if ray_job is not None and not ray_job.deleting and ending_of(ray_job, (), None) is not None:
            return False  # the attempt ended before it could save
        if ray_job is not None or (pods and attempt.ray_job_uid is not None):
            draft.update_attempt(**pause_fields(attempt, draft.now))
            draft.set_condition("Suspended", False, "Saving", _stopping_message(ray_job))
            draft.set_condition("Training", False, "Suspended", "spec.suspend is true")
            draft.requeue_by(draft.now + timedelta(seconds=limits.silent))
            if ray_job is not None and not ray_job.deleting:
                draft.add_action(DeleteRayJob(ray_job.name, ray_job.uid))
            return True
        end_attempt(
            draft, Ending(outcome=Outcome.SUSPENDED, reason="Suspended", message="spec.suspend was set to true"), ()
        )
    draft.head_uid = None
    draft.set_condition("Suspended", True, "Suspended", "spec.suspend is true; set it to false to continue")
    draft.drop_condition("QuotaReserved")
    if "ClusterReady" in draft.conditions:
        draft.set_condition("ClusterReady", False, "Suspended", "the job has no Ray cluster while spec.suspend is true")
    return True


def _stopping_message(ray_job: RayJobView | None) -> str:
    if ray_job is None:
        return "the last pods of the job are terminating"
    if ray_job.deleting:
        return f"the pods of RayJob {ray_job.name} save before they are removed; KubeRay must be running to finish this"
    return "the trainer has been asked to save"


def creation_message(ray_job: str) -> str:
    """Return the message for an attempt whose RayJob does not exist yet."""
    return f"RayJob {ray_job} is being created"


def start_attempt(job: PromptInternJob, observed: Observed, draft: StatusDraft, limits: Limits) -> bool:
    """Start the first or the next attempt if it is due. Return True if nothing else has to be done now."""
    if draft.running_attempt is not None:
        return False
    deadline = job.spec.active_deadline_seconds
    if deadline is not None and active_seconds(draft.attempts, draft.now) >= deadline:
        return True
    number = 1
    if draft.newest_attempt is not None:
        number = draft.newest_attempt.number + 1
        due = next_start(draft.counted_attempts, limits=limits, seed=job.metadata.uid or job.metadata.name)
        if due is not None and not draft.is_due(due):
            return True
    if not observed.kuberay.usable:
        draft.set_condition("ClusterReady", False, observed.kuberay.reason, observed.kuberay.message)
        return True
    name = ray_job_name(job.metadata.name, number)
    draft.attempts.append(AttemptStatus(number=number, ray_job_name=name, started_at=draft.now))
    draft.head_uid = None
    draft.set_condition("ClusterReady", False, "Starting", creation_message(name))
    draft.set_condition("Training", False, "Starting", f"attempt {number} is starting")
    draft.add_action(StartAttempt(number))
    return True


def finish_or_retry(job: PromptInternJob, observed: Observed, draft: StatusDraft, limits: Limits) -> bool:
    """Finish the job or requeue it for the next attempt. Return False if the newest attempt has not ended yet."""
    attempt = draft.newest_attempt
    if attempt is None or attempt.outcome is None:
        return False
    if attempt.outcome is Outcome.SUCCEEDED:
        finish(draft, succeeded=True, reason="Succeeded", message=f"attempt {attempt.number}: {attempt.message}")
    elif is_spent(draft.counted_attempts, job.spec.retries, saved_after=job.spec.checkpoint.every_seconds):
        reason = {Outcome.USER: "Refused"}.get(attempt.outcome, "RetriesExhausted")
        if draft.reason("Training") == UNSUPPORTED_RUN_FORMAT:
            reason = UNSUPPORTED_RUN_FORMAT
        message = f"attempt {attempt.number}: {attempt.message}"
        if attempt.outcome is Outcome.PREEMPTION:
            message = (
                f"the cluster ended more than {job.spec.retries.preemption} attempts in a row "
                "(spec.retries.preemption) before the trainer had run for "
                f"{job.spec.checkpoint.every_seconds} s (spec.checkpoint.everySeconds); {message}"
            )
        finish(draft, succeeded=False, reason=reason, message=message)
    elif job.spec.suspend:  # the attempt ended before it could save, so ``suspend`` ignored it
        return suspend(job, observed, draft, limits)
    else:
        due = next_start(draft.counted_attempts, limits=limits, seed=job.metadata.uid or job.metadata.name)
        draft.requeue_by(due or draft.now)
    return True
