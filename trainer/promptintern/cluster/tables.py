"""A job's state on a terminal: blocks of text and tables that fit its width."""

from collections.abc import Sequence
from datetime import datetime

from promptintern_api.status import AttemptStatus, Outcome, Phase
from promptintern_api.training_status import StageStatus
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from promptintern.cluster import words
from promptintern.cluster.objects import Job

_COLOURS = {
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.REFUSED: "red",
    Phase.TRAINING: "cyan",
    Phase.SUSPENDED: "yellow",
    Phase.QUEUED: "yellow",
}
_ANY_WIDTH = 10_000
_BAR = 30


def blocks(job: Job, *, now: datetime, console: Console, flags: str = "") -> list[RenderableType]:
    """Everything that is to be said of ``job``, from above to below.

    Args:
        flags: What commands need to find the job again, such as `` -n team-a``.
    """
    found: list[RenderableType] = [_head(job, now)]
    waiting = words.waiting_for_operator(job, now)
    if waiting:
        found.append(Text(waiting, style="yellow"))
    if job.deleting:
        found.append(Text("is being deleted", style="yellow"))
    found += [_condition(words.sentence(each)) for each in words.that_matter(job)]
    found += _stages(job, now, console)
    found += _attempts(job, now, console)
    outputs = job.status.training.outputs if job.status.training else None
    if outputs and outputs.report:
        found.append(Text(f"report:  {outputs.report}"))
    if outputs and outputs.adapter:
        found.append(Text(f"adapter: {outputs.adapter}"))
    advice = words.advice(job, flags=flags)
    if advice:
        found.append(Text(advice))
    return found


def jobs_table(jobs: Sequence[Job], *, now: datetime, console: Console, everywhere: bool = False) -> RenderableType:
    """A row a job, with the columns of `kubectl get pij`."""
    table = _table("", "namespace", "name", "phase") if everywhere else _table("", "name", "phase")
    for name in ("stage", "tokens", "score", "age"):
        table.add_column(name, justify="right", no_wrap=True)
    for job in jobs:
        status = job.status
        cells = [
            Text(job.name),
            _phase(job),
            Text(status.stage or ""),
            Text(f"{status.tokens:g}" if status.tokens is not None else ""),
            Text(status.score or ""),
            Text(words.age(job.created, now)),
        ]
        table.add_row(*([Text(job.namespace), *cells] if everywhere else cells))
    return _fitted(table, console)


def _head(job: Job, now: datetime) -> Text:
    head = Text.assemble((f"{job.namespace}/{job.name}", "bold"), " ", _phase(job))
    status = job.status
    if status.stage:
        head.append(f" · stage {status.stage}")
    if status.start_time is not None:
        took = (status.completion_time or now) - status.start_time
        head.append(f" · {'took' if status.completion_time else 'for'} {words.duration(took.total_seconds())}")
    else:
        head.append(f" · {words.age(job.created, now)} old")
    return head


def _phase(job: Job) -> Text:
    if job.deleting:
        return Text("Deleting", style="yellow")
    phase = job.status.phase
    return Text(str(phase or "New"), style=_COLOURS.get(phase, "") if phase else "")


def _condition(sentence: str) -> Text:
    first, _, rest = sentence.partition(": ") if "\n" not in sentence else sentence.partition("\n")
    joint = "\n" if "\n" in sentence else ": "
    return Text.assemble((first, "bold"), f"{joint}{rest}" if rest else "")


def _stages(job: Job, now: datetime, console: Console) -> list[RenderableType]:
    training = job.status.training
    if training is None or not training.stages:
        return []
    table = _table("stages", "stage")
    for name in ("rate", "examples", "prompt tokens", "loss", "score", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in sorted(training.stages, key=lambda each: each.index):
        table.add_row(
            f"{stage.index + 1}",
            f"{stage.rate:.2f}",
            f"{stage.shots}",
            f"{stage.prompt_tokens:.1f}",
            f"{stage.loss:.4f}" if stage.loss is not None else "",
            f"{stage.score:.3f}" if stage.score is not None else "",
            _took(stage, now, running=job.status.phase is Phase.TRAINING),
        )
    found: list[RenderableType] = [_fitted(table, console)]
    line = words.progress(job)
    if line and training.progress is not None:
        if console.is_terminal and console.width > _BAR and training.progress.total:
            found.append(ProgressBar(total=training.progress.total, completed=training.progress.step, width=_BAR))
        found.append(Text(line))
    return found


def _took(stage: StageStatus, now: datetime, *, running: bool) -> str:
    if stage.started_at is None or (stage.finished_at is None and not running):
        return ""
    return words.duration(((stage.finished_at or now) - stage.started_at).total_seconds())


def _attempts(job: Job, now: datetime, console: Console) -> list[RenderableType]:
    attempts = job.status.attempts
    if not attempts or (len(attempts) == 1 and attempts[0].outcome in (None, Outcome.SUCCEEDED) and not _odd(attempts)):
        return []
    table = _table("attempts", "attempt", "outcome")
    for name in ("took", "head pods"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("RayJob", no_wrap=True)
    ordered = sorted(attempts, key=lambda each: each.number)
    for attempt in ordered:
        end = attempt.finished_at or now
        table.add_row(
            str(attempt.number),
            str(attempt.outcome or "running"),
            words.duration((end - attempt.started_at).total_seconds()) if attempt.started_at else "",
            str(attempt.head_pods),
            attempt.ray_job_name,
        )
    found: list[RenderableType] = [_fitted(table, console)]
    found += [
        Text(f"attempt {each.number}: {words.safe(each.message)}")
        for each in ordered
        if each.message and each.outcome is not Outcome.SUCCEEDED
    ]
    last = ordered[-1]
    if last.outcome is not Outcome.SUCCEEDED:
        found += [Text(line) for line in _bad_pods(last)]
    return found


def _odd(attempts: Sequence[AttemptStatus]) -> bool:
    return any(each.head_pods > 1 or _bad_pods(each) for each in attempts if each.outcome is None)


def _bad_pods(attempt: AttemptStatus) -> list[str]:
    lines = []
    for pod in attempt.pods:
        if pod.reason is None and not pod.exit_code:
            continue
        node = f" on {pod.node}" if pod.node else ""
        code = f", exit code {pod.exit_code}" if pod.exit_code is not None else ""
        message = f": {words.safe(pod.message)}" if pod.message else ""
        lines.append(f"  pod {pod.name}{node}: {pod.reason or pod.phase or 'ended'}{code}{message}")
    return lines


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _fitted(table: Table, console: Console) -> RenderableType:
    """The table, or its cells under one another where the terminal is too narrow for it."""
    if Measurement.get(console, console.options.update(width=_ANY_WIDTH), table).maximum <= console.width:
        return table
    lines = []
    for row in zip(*(column.cells for column in table.columns), strict=True):
        name, *cells = map(str, row)
        lines.append(f"{table.columns[0].header} {name}")
        named = zip(table.columns[1:], cells, strict=True)
        lines += [f"  {column.header}: {cell}" for column, cell in named if cell]
    return Text("\n".join(lines))
