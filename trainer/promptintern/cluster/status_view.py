"""The display of a job's state on a terminal: blocks of text, and tables that fit the terminal's width."""

from collections.abc import Sequence
from datetime import datetime

from promptintern_api.status import AttemptStatus, Outcome, Phase
from promptintern_api.training_status import StageStatus
from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from promptintern.cluster import messages
from promptintern.cluster.objects import Job
from promptintern.report.formatting import duration
from promptintern.terminal import fitted_table, printable

_COLOURS = {
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.REFUSED: "red",
    Phase.TRAINING: "cyan",
    Phase.SUSPENDED: "yellow",
    Phase.QUEUED: "yellow",
}
_BAR_WIDTH = 30


def job_blocks(job: Job, *, now: datetime, console: Console, flags: str = "") -> list[RenderableType]:
    """Return everything that `status` shows about ``job``, from top to bottom.

    Args:
        job: The job.
        now: The current time.
        console: The console whose width the blocks fit.
        flags: The options that select the namespace and context of the job, such as `` -n team-a``.
    """
    blocks: list[RenderableType] = [_heading(job, now)]
    waiting = messages.waiting_for_operator(job, now)
    if waiting:
        blocks.append(Text(waiting, style="yellow"))
    if job.is_deleting:
        blocks.append(Text("the job is being deleted", style="yellow"))
    blocks += [_condition(messages.condition_message(condition)) for condition in messages.relevant_conditions(job)]
    blocks += _stages(job, now, console)
    blocks += _attempts(job, now, console)
    outputs = job.status.training.outputs if job.status.training else None
    if outputs and outputs.report:
        blocks.append(Text(f"report:  {outputs.report}"))
    if outputs and outputs.adapter:
        blocks.append(Text(f"adapter: {outputs.adapter}"))
    next_step = messages.next_step(job, flags=flags)
    if next_step:
        blocks.append(Text(next_step))
    return blocks


def jobs_table(jobs: Sequence[Job], *, now: datetime, console: Console, all_namespaces: bool = False) -> RenderableType:
    """Return a table with one row per job and the columns of `kubectl get pij`."""
    names = ("name", "phase", "reason")
    table = _table("", "namespace", *names) if all_namespaces else _table("", *names)
    for name in ("stage", "tokens", "score", "verdict", "age"):
        table.add_column(name, justify="right", no_wrap=True)
    for job in jobs:
        status = job.status
        cells = [
            Text(job.name),
            _phase(job),
            Text(status.reason or ""),
            Text(status.stage or ""),
            Text(f"{status.tokens:g}" if status.tokens is not None else ""),
            Text(status.score or ""),
            Text(status.verdict or ""),
            Text(messages.age(job.created, now)),
        ]
        table.add_row(*([Text(job.namespace), *cells] if all_namespaces else cells))
    return fitted_table(table, console)


def _heading(job: Job, now: datetime) -> Text:
    heading = Text.assemble((f"{job.namespace}/{job.name}", "bold"), " ", _phase(job))
    status = job.status
    if status.stage:
        heading.append(f" · stage {status.stage}")
    if status.start_time is not None:
        elapsed = messages.elapsed(status.start_time, status.completion_time or now)
        heading.append(f" · {'took' if status.completion_time else 'for'} {elapsed}")
    else:
        heading.append(f" · {messages.age(job.created, now)} old")
    return heading


def _phase(job: Job) -> Text:
    if job.is_deleting:
        return Text("Deleting", style="yellow")
    phase = job.status.phase
    return Text(str(phase or "New"), style=_COLOURS.get(phase, "") if phase else "")


def _condition(sentence: str) -> Text:
    first, _, rest = sentence.partition(": ") if "\n" not in sentence else sentence.partition("\n")
    joint = "\n" if "\n" in sentence else ": "
    return Text.assemble((first, "bold"), f"{joint}{rest}" if rest else "")


def _stages(job: Job, now: datetime, console: Console) -> list[RenderableType]:
    training = job.status.training
    if training is None:
        return []
    line = messages.progress_line(job)
    if not training.stages:
        return [Text(line)] if line else []
    table = _table("stages", "stage")
    for name in ("rate", "examples", "prompt tokens", "loss", "score", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in sorted(training.stages, key=lambda stage: stage.index):
        table.add_row(
            f"{stage.index + 1}",
            f"{stage.rate:.2f}",
            f"{stage.shots}",
            f"{stage.prompt_tokens:.1f}",
            f"{stage.loss:.4f}" if stage.loss is not None else "",
            f"{stage.score:.3f}" if stage.score is not None else "",
            _stage_duration(stage, now, is_running=job.status.phase is Phase.TRAINING),
        )
    blocks: list[RenderableType] = [fitted_table(table, console)]
    if line:
        if (
            training.progress is not None
            and console.is_terminal
            and console.width > _BAR_WIDTH
            and training.progress.total
        ):
            blocks.append(
                ProgressBar(total=training.progress.total, completed=training.progress.step, width=_BAR_WIDTH)
            )
        blocks.append(Text(line))
    return blocks


def _stage_duration(stage: StageStatus, now: datetime, *, is_running: bool) -> str:
    """Return how long the stage was trained; a trainer of an older version reports only when it began and ended."""
    if stage.seconds is not None:
        return duration(stage.seconds)
    if stage.started_at is None or (stage.finished_at is None and not is_running):
        return ""
    return messages.elapsed(stage.started_at, stage.finished_at or now)


def _attempts(job: Job, now: datetime, console: Console) -> list[RenderableType]:
    attempts = job.status.attempts
    if not attempts or (
        len(attempts) == 1 and attempts[0].outcome in (None, Outcome.SUCCEEDED) and not _has_trouble(attempts)
    ):
        return []
    table = _table("attempts", "attempt", "outcome")
    for name in ("took", "head pods"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("RayJob", no_wrap=True)
    ordered = sorted(attempts, key=lambda attempt: attempt.number)
    for attempt in ordered:
        table.add_row(
            str(attempt.number),
            str(attempt.outcome or "running"),
            messages.elapsed(attempt.started_at, attempt.finished_at or now) if attempt.started_at else "",
            str(attempt.head_pods),
            attempt.ray_job_name,
        )
    blocks: list[RenderableType] = [fitted_table(table, console)]
    blocks += [
        Text(f"attempt {attempt.number}: {printable(attempt.message)}")
        for attempt in ordered
        if attempt.message and attempt.outcome is not Outcome.SUCCEEDED
    ]
    last = ordered[-1]
    if last.outcome is not Outcome.SUCCEEDED:
        blocks += [Text(line) for line in _failed_pods(last)]
    return blocks


def _has_trouble(attempts: Sequence[AttemptStatus]) -> bool:
    return any(attempt.head_pods > 1 or _failed_pods(attempt) for attempt in attempts if attempt.outcome is None)


def _failed_pods(attempt: AttemptStatus) -> list[str]:
    lines = []
    for pod in attempt.pods:
        if pod.reason is None and not pod.exit_code:
            continue
        node = f" on {pod.node}" if pod.node else ""
        code = f", exit code {pod.exit_code}" if pod.exit_code is not None else ""
        message = f": {printable(pod.message)}" if pod.message else ""
        lines.append(f"  pod {pod.name}{node}: {pod.reason or pod.phase or 'ended'}{code}{message}")
    return lines


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
