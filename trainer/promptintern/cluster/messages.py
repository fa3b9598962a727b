"""Messages for the user about a job: its conditions, changes and progress, and the command to run next."""

from datetime import datetime, timedelta

from promptintern_api.status import AttemptStatus, Condition, Outcome, Phase
from promptintern_api.training_status import StageStatus

from promptintern.cluster.objects import Job
from promptintern.report.formatting import duration
from promptintern.terminal import printable

_HEADINGS = {
    ("Accepted", "Unknown"): "being checked",
    ("Accepted", "False"): "refused",
    ("QuotaReserved", "False"): "waiting for quota",
    ("ClusterReady", "False"): "the Ray cluster is not ready",
    ("Training", "True"): "training",
    ("Suspended", "True"): "suspended",
    ("Suspended", "False"): "being suspended",
    ("Succeeded", "True"): "succeeded",
    ("Internalized", "True"): "verdict",
    ("Internalized", "False"): "verdict",
    ("Internalized", "Unknown"): "verdict",
    ("Failed", "True"): "failed",
}
_TERMINAL_TYPES = ("Succeeded", "Failed")
_VERDICT = "Internalized"
_IMPLIED = {
    ("Accepted", "True"),
    ("QuotaReserved", "True"),
    ("ClusterReady", "True"),
    ("Training", "False"),
    ("Succeeded", "False"),
    ("Failed", "False"),
}
"""The conditions, by type and status, that are not shown because the phase or another condition implies them."""
_AGE_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"))
_ORDINALS = ("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def relevant_conditions(job: Job) -> list[Condition]:
    """Return the conditions that show the job's current activity, its reason for waiting, or its outcome."""
    conditions = job.status.conditions
    ends = [condition for condition in conditions if condition.type in _TERMINAL_TYPES and condition.status == "True"]
    if ends:
        return [*ends, *(condition for condition in conditions if condition.type == _VERDICT)]
    suspended = [condition for condition in conditions if condition.type == "Suspended" and condition.status == "True"]
    if suspended:
        return suspended
    refused = [condition for condition in conditions if condition.type == "Accepted" and condition.reason == "Refused"]
    if refused:
        return refused
    return [
        condition
        for condition in conditions
        if (condition.type, condition.status) not in _IMPLIED and not _is_resumed(condition)
    ]


def _is_resumed(condition: Condition) -> bool:
    return condition.type == "Suspended" and condition.status == "False" and condition.reason != "Saving"


def condition_message(condition: Condition) -> str:
    """Return a heading for ``condition`` and its message; a message of several lines is indented below the heading."""
    heading = _HEADINGS.get((condition.type, condition.status)) or f"{condition.type} is {condition.status}"
    word = heading.split()[-1].lower()
    implied = {word, condition.type.lower(), heading.replace(" ", "")}
    reason = "" if condition.reason.lower() in implied else f" ({condition.reason})"
    lines = printable(condition.message).splitlines()
    if len(lines) > 1:
        return "\n".join([f"{heading}{reason}:", *(f"  {line}" for line in lines)])
    return f"{heading}{reason}: {lines[0]}" if lines else f"{heading}{reason}"


def waiting_for_operator(job: Job, now: datetime) -> str | None:
    """Return a message if the operator has not observed the newest spec of ``job``, or None if it has."""
    if not job.has_unobserved_spec:
        return "the operator has not reacted to the requested retry yet" if job.has_pending_retry else None
    if job.status.phase is None and now - job.created > timedelta(seconds=30):
        return (
            "no operator has observed this job yet; ask the administrator of the cluster whether the operator of "
            "PromptIntern runs, and serves this namespace"
        )
    return "the operator has not observed the newest spec yet"


def next_step(job: Job, *, flags: str = "") -> str | None:
    """Return a line with the command that the user may run next, or None if there is no such command.

    Args:
        flags: The options that select the namespace and context of the job, such as `` -n team-a``.
    """
    status = job.status
    if job.is_deleting:
        return None
    if status.phase is Phase.REFUSED:
        return (
            "next: correct the job, or what it needs (a Secret, a file), then have it checked again with: promptintern "
            f"submit JOB{flags}"
        )
    if status.phase is Phase.FAILED:
        return (
            f"next: promptintern logs {job.name}{flags}; to continue the run after its cause is gone: promptintern "
            f"submit JOB{flags}"
        )
    if status.phase is Phase.SUSPENDED:
        return (
            f"next: continue it with: kubectl patch pij {job.name}{flags} --type merge "
            '-p \'{"spec": {"suspend": false}}\''
        )
    if status.phase is Phase.SUCCEEDED:
        return f"next: promptintern fetch {job.name} ./{job.name}{flags}"
    return None


def changes(before: Job | None, after: Job) -> list[str]:
    """Return one line for each change of a job from ``before`` to ``after``, except for progress within a stage.

    If ``before`` is None, everything in ``after`` counts as a change.
    """
    lines = []
    old, new = (before.status if before else None), after.status
    if new.phase is not None and (old is None or old.phase is not new.phase):
        stage = f", stage {new.stage}" if new.stage and new.phase is Phase.TRAINING else ""
        lines.append(f"{new.phase}{stage}")
    if after.is_deleting and not (before and before.is_deleting):
        lines.append("the job is being deleted")
    old_messages = {condition_message(condition) for condition in relevant_conditions(before)} if before else set()
    lines += [
        text for condition in relevant_conditions(after) if (text := condition_message(condition)) not in old_messages
    ]
    old_attempts = {attempt.number: attempt for attempt in old.attempts} if old else {}
    for attempt in new.attempts:
        lines += _attempt_changes(old_attempts.get(attempt.number), attempt)
    old_stages = {stage.index: stage for stage in (old.training.stages if old and old.training else [])}
    for stage_status in new.training.stages if new.training else []:
        lines += _stage_changes(old_stages.get(stage_status.index), stage_status)
    return lines


def _attempt_changes(old: AttemptStatus | None, new: AttemptStatus) -> list[str]:
    if new.outcome is not None and (old is None or old.outcome is None):
        if new.outcome is Outcome.SUCCEEDED:
            return []
        return [attempt_end(new)]
    if old is None:
        return [f"attempt {new.number} started as RayJob {new.ray_job_name}"]
    if new.head_pods > max(old.head_pods, 1):
        return [f"attempt {new.number} restarted with a new head pod ({_ordinal(new.head_pods)} so far)"]
    return []


def attempt_end(attempt: AttemptStatus) -> str:
    """Return a line that says how ``attempt`` ended."""
    message = f": {printable(attempt.message)}" if attempt.message else ""
    return f"attempt {attempt.number} ended ({attempt.outcome}){message}"


def _ordinal(number: int) -> str:
    """Return "the second" for 2 and so on up to "the tenth" for 10, and any other number as digits."""
    return f"the {_ORDINALS[number - 2]}" if 2 <= number < 2 + len(_ORDINALS) else f"{number}"


def _stage_changes(old: StageStatus | None, new: StageStatus) -> list[str]:
    if new.finished_at is not None and (old is None or old.finished_at is None):
        loss = f", loss {new.loss:.4f}" if new.loss is not None else ""
        score = f", score {new.score:.3f}" if new.score is not None else ""
        return [f"stage {new.index + 1} done: {new.prompt_tokens:.1f} prompt tokens per query{loss}{score}"]
    if old is None:
        return [
            f"stage {new.index + 1}: template rate {new.rate:.2f}, {new.shots} examples, "
            f"{new.prompt_tokens:.1f} prompt tokens per query"
        ]
    return []


def progress_line(job: Job) -> str | None:
    """Return a line about the running stage (steps, loss and speed) or about the answers that are being generated.

    Return None if neither is known.
    """
    training = job.status.training
    if training is None or job.is_over:
        return None
    if training.answering is not None:
        answering = training.answering
        name = " ".join(printable(answering.name).split())
        left = f", {duration(answering.eta_seconds)} left" if answering.eta_seconds is not None else ""
        return f"{name}: answered {answering.answered:,} of {answering.total:,}{left}"
    if training.progress is None:
        return None
    progress = training.progress
    stage = max(training.stages, key=lambda stage: stage.index, default=None)
    name = " ".join(printable(progress.name or "").split()) or (f"stage {stage.index + 1}" if stage else "training")
    is_stage = stage is not None and not name.startswith("arm ")
    share = f" ({100 * progress.step / progress.total:.0f} %)" if progress.total else ""
    loss = f", loss {stage.loss:.4f}" if is_stage and stage and stage.loss is not None else ""
    speed = f", {progress.tokens_per_second:,.0f} tokens/s" if progress.tokens_per_second else ""
    left = f", {duration(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
    return f"{name}: step {progress.step}/{progress.total}{share}{loss}{speed}{left}"


def elapsed(start: datetime, end: datetime) -> str:
    """Return the time from ``start`` to ``end``, such as ``3 h 5 min``, or zero if ``end`` is earlier.

    ``end`` can be earlier if the clocks of two machines differ.
    """
    return duration(max(0.0, (end - start).total_seconds()))


def age(created: datetime, now: datetime) -> str:
    """Return the time from ``created`` to ``now`` in a single unit, such as ``3d``, like kubectl's AGE column."""
    seconds = max(0, round((now - created).total_seconds()))
    return next((f"{seconds // size}{unit}" for size, unit in _AGE_UNITS if seconds >= size), f"{seconds}s")
