"""A job's state in words: which conditions matter now, what changed, how long things took."""

import re
from datetime import datetime, timedelta

from promptintern_api.status import AttemptStatus, Condition, Outcome, Phase
from promptintern_api.training_status import StageStatus

from promptintern.cluster.objects import Job

_HEADINGS = {
    ("Accepted", "Unknown"): "being checked",
    ("Accepted", "False"): "refused",
    ("QuotaReserved", "False"): "waits for quota",
    ("ClusterReady", "False"): "the Ray cluster is not ready",
    ("Training", "True"): "training",
    ("Suspended", "True"): "suspended",
    ("Suspended", "False"): "being suspended",
    ("Succeeded", "True"): "succeeded",
    ("Failed", "True"): "failed",
}
_ENDS = ("Succeeded", "Failed")
_QUIET = {
    ("Accepted", "True"),
    ("QuotaReserved", "True"),
    ("ClusterReady", "True"),
    ("Training", "False"),
    ("Succeeded", "False"),
    ("Failed", "False"),
}
"""What goes without saying: the phase, or another condition, tells it."""
_ORDINALS = ("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def that_matter(job: Job) -> list[Condition]:
    """The conditions that tell where the job stands now, or what holds it up."""
    conditions = job.status.conditions
    ends = [each for each in conditions if each.type in _ENDS and each.status == "True"]
    if ends:
        return ends
    suspended = [each for each in conditions if each.type == "Suspended" and each.status == "True"]
    if suspended:
        return suspended
    refused = [each for each in conditions if each.type == "Accepted" and each.reason == "Refused"]
    if refused:
        return refused
    return [each for each in conditions if (each.type, each.status) not in _QUIET and not _is_resumed(each)]


def _is_resumed(condition: Condition) -> bool:
    return condition.type == "Suspended" and condition.status == "False" and condition.reason != "Saving"


def sentence(condition: Condition) -> str:
    """A condition as a person would say it; further lines of its message follow, indented."""
    heading = _HEADINGS.get((condition.type, condition.status)) or f"{condition.type} is {condition.status}"
    word = heading.split()[-1].lower()
    known = {word, condition.type.lower(), heading.replace(" ", "")}
    reason = "" if condition.reason.lower() in known else f" ({condition.reason})"
    lines = safe(condition.message).splitlines()
    if len(lines) > 1:
        return "\n".join([f"{heading}{reason}:", *(f"  {line}" for line in lines)])
    return f"{heading}{reason}: {lines[0]}" if lines else f"{heading}{reason}"


def safe(text: str) -> str:
    """Without characters that would move a terminal's cursor or change its colours."""
    return re.sub(r"[^\S\n]|[\x00-\x09\x0b-\x1f\x7f-\x9f]", " ", text)


def waiting_for_operator(job: Job, now: datetime) -> str | None:
    """What to say while the operator has not looked at the newest spec."""
    if not job.unseen:
        return None
    if job.status.phase is None and now - job.created > timedelta(seconds=30):
        return (
            "no operator has looked at this job yet; is it running, and does it serve this namespace? "
            "kubectl get pods --all-namespaces -l app.kubernetes.io/name=promptintern"
        )
    return "the operator has not looked at the newest spec yet"


def advice(job: Job, *, flags: str = "") -> str | None:
    """What to do next, if anything is to be done."""
    status = job.status
    if job.deleting:
        return None
    if status.phase is Phase.REFUSED:
        return f"next: change the job, then submit it again: promptintern submit JOB{flags}"
    if status.phase is Phase.FAILED:
        return f"next: promptintern logs {job.name}{flags}"
    if status.phase is Phase.SUSPENDED:
        return (
            f'next: kubectl patch pij {job.name}{flags} --type merge -p \'{{"spec": {{"suspend": false}}}}\' '
            "continues it"
        )
    if status.phase is Phase.SUCCEEDED:
        return f"next: promptintern fetch {job.name} ./{job.name}{flags}"
    return None


def changes(before: Job | None, after: Job) -> list[str]:
    """What is new in ``after``, a line each; all that matters if there is no ``before``. Progress is left out."""
    lines = []
    old, new = (before.status if before else None), after.status
    if new.phase is not None and (old is None or old.phase is not new.phase):
        stage = f", stage {new.stage}" if new.stage and new.phase is Phase.TRAINING else ""
        lines.append(f"{new.phase}{stage}")
    if after.deleting and not (before and before.deleting):
        lines.append("is being deleted")
    told = {sentence(each) for each in that_matter(before)} if before else set()
    lines += [text for each in that_matter(after) if (text := sentence(each)) not in told]
    known = {each.number: each for each in old.attempts} if old else {}
    for attempt in new.attempts:
        lines += _attempt_changes(known.get(attempt.number), attempt)
    before_stages = {each.index: each for each in (old.training.stages if old and old.training else [])}
    for stage_status in new.training.stages if new.training else []:
        lines += _stage_changes(before_stages.get(stage_status.index), stage_status)
    return lines


def _attempt_changes(old: AttemptStatus | None, new: AttemptStatus) -> list[str]:
    if new.outcome is not None and (old is None or old.outcome is None):
        if new.outcome is Outcome.SUCCEEDED:
            return []
        why = f": {safe(new.message)}" if new.message else ""
        return [f"attempt {new.number} ended ({new.outcome}){why}"]
    if old is None:
        return [f"attempt {new.number} begins as RayJob {new.ray_job_name}"]
    if new.head_pods > max(old.head_pods, 1):
        return [f"attempt {new.number} restarted with a new head pod ({_position(new.head_pods)} so far)"]
    return []


def _position(number: int) -> str:
    """The position ``number`` in words, where there is a short one."""
    return f"the {_ORDINALS[number - 2]}" if 2 <= number < 2 + len(_ORDINALS) else f"{number}"


def _stage_changes(old: StageStatus | None, new: StageStatus) -> list[str]:
    if new.finished_at is not None and (old is None or old.finished_at is None):
        loss = f", loss {new.loss:.4f}" if new.loss is not None else ""
        score = f", score {new.score:.3f}" if new.score is not None else ""
        return [f"stage {new.index + 1} done: {new.prompt_tokens:.1f} prompt tokens a query{loss}{score}"]
    if old is None:
        return [
            f"stage {new.index + 1}: template rate {new.rate:.2f}, {new.shots} examples, "
            f"{new.prompt_tokens:.1f} prompt tokens a query"
        ]
    return []


def progress(job: Job) -> str | None:
    """The running stage's steps, in a line."""
    training = job.status.training
    if training is None or training.progress is None or job.over or not training.stages:
        return None
    running = training.progress
    stage = max(training.stages, key=lambda each: each.index)
    share = f" ({100 * running.step / running.total:.0f} %)" if running.total else ""
    loss = f", loss {stage.loss:.4f}" if stage.loss is not None else ""
    speed = f", {running.tokens_per_second:,.0f} tokens/s" if running.tokens_per_second else ""
    left = f", {duration(running.eta_seconds)} left" if running.eta_seconds is not None else ""
    return f"stage {stage.index + 1}: step {running.step}/{running.total}{share}{loss}{speed}{left}"


def duration(seconds: float) -> str:
    """Two units at the most, as in 3h 5m."""
    whole = max(0, round(seconds))
    for size, unit, small, small_unit in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size}{unit} {rest}{small_unit}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def age(moment: datetime, now: datetime) -> str:
    """Time since ``moment``, in its largest unit, as kubectl shows it."""
    return duration((now - moment).total_seconds()).split()[0]
