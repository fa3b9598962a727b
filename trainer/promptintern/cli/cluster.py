"""The commands for jobs in a cluster: `submit`, `status`, `logs` and `fetch`. They use the user's kubeconfig."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from promptintern_api.contract import ADAPTER_FOLDER, REPORT_HTML, REPORT_JSON, ExitCode
from rich.console import Console
from rich.text import Text

from promptintern.cli.options import JobFile, Overrides
from promptintern.errors import RunFailed, UserError
from promptintern.libraries import without_collection
from promptintern.terminal import output_console, print_error, print_line, write_log

if TYPE_CHECKING:
    from promptintern.cluster.client import Cluster
    from promptintern.cluster.objects import Job as ClusterJob
    from promptintern.cluster.submit import SubmissionResult

_PROGRESS_SECONDS = 30.0
"""The minimum number of seconds between two lines of progress in a log."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the job.", show_default=False)]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NS", help="Namespace of the job.", show_default="that of the context"),
]
Context = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Context of the kubeconfig.", show_default="the current one"),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="URL of the S3 server to which your AWS credentials may be sent, as this machine reaches it. It is needed "
        "if the job names an S3 server, whose choice was the author's.",
        show_default="AWS_ENDPOINT_URL_S3, or AWS_ENDPOINT_URL",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    panel = "Jobs in a cluster"
    for command, example in (
        (submit, "promptintern submit job.yaml -n team-a --wait"),
        (status, "promptintern status nl2bash --watch"),
        (logs, "promptintern logs nl2bash -f"),
        (fetch, "promptintern fetch nl2bash ./nl2bash"),
    ):
        app.command(epilog=f"Example: {example}", rich_help_panel=panel)(command)


def submit(
    job: JobFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Let the API server check the job without storing it.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Watch the job until it ends; exit with 0 if it succeeded, 1 if it failed, 2 if it was refused.",
        ),
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Create a job in a cluster, change an existing job of the same name, or try a refused or failed job again.

    Labels, annotations and the fields suspend, retries, activeDeadlineSeconds and ttlSecondsAfterFinished can change at
    any time; they stay as they are if the file leaves them out. All other fields can change until the job is accepted.
    """
    from promptintern.cluster.submit import read_submission
    from promptintern.cluster.submit import submit as send

    submission = read_submission(job, overrides or [])
    if namespace and submission.namespace and namespace != submission.namespace:
        raise UserError.at(
            "metadata.namespace", f"is {submission.namespace} and --namespace is {namespace}; leave one of them out"
        )
    cluster = _connect(context, namespace or submission.namespace)
    submitted = send(cluster, submission, dry_run=dry_run)
    flags = _flags(namespace or submission.namespace, context)
    _print_submitted(submitted, file=job, flags=flags, dry_run=dry_run, is_waiting=wait)
    if wait and not dry_run:
        _watch(cluster, submitted.job.name, flags)


def status(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name of the job. Without it, all jobs are listed.", show_default=False),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Watch the job until it ends; the exit codes are those of submit --wait."),
    ] = False,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="List the jobs of all namespaces.")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Show the state of a job: its stages, its attempts, what it waits for, and what to do next."""
    if name is None and watch:
        raise UserError.at("--watch", "needs the NAME of a job; to watch all jobs: kubectl get pij --watch")
    if name is not None and all_namespaces:
        raise UserError.at("--all-namespaces", "lists all jobs; leave out NAME, or give --namespace instead")
    cluster = _connect(context, namespace)
    flags = _flags(namespace, context)
    if name is None:
        _print_jobs(cluster, all_namespaces=all_namespaces)
    elif watch:
        _watch(cluster, name, flags)
    else:
        _print_job(output_console(), cluster.job(name), flags)


def logs(
    name: Name,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print the log as it grows, until the job ends.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Number of the attempt.", show_default="the newest one")
    ] = None,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Show the log of a job's trainer.

    While the head pod runs, the log is read from it, which requires the right to exec into pods. Without that right, or
    after the pod is gone, the tail of the log is read from the job's storage with your own AWS credentials. Before the
    first attempt, the log of the check is shown.
    """
    from promptintern.cluster.logs import LogReader
    from promptintern.cluster.run_location import locate_run

    cluster = _connect(context, namespace)
    reader = LogReader(
        cluster,
        out=write_log,
        note=lambda text: print_error(text, style="yellow"),
        locate_run=lambda job: locate_run(job, endpoint=endpoint),
    )
    if follow:
        reader.follow(name, attempt)
    else:
        reader.show(name, attempt)


def fetch(
    name: Name,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to download to; it must be new or empty.", show_default=False)
    ],
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Download a job's adapter and report from its storage, with your own AWS credentials.

    The adapter is written to DIR/adapter, and each of its files is compared with the manifest. The report is written to
    DIR/report. The credentials come from the usual places of AWS tools: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
    or ~/.aws. To trust a private certificate authority, set AWS_CA_BUNDLE to its file.
    """
    from promptintern.cluster.fetch import check_target
    from promptintern.cluster.fetch import fetch as download
    from promptintern.cluster.run_location import locate_run

    check_target(folder)
    cluster = _connect(context, namespace)
    job = cluster.job(name)
    location = locate_run(job, endpoint=endpoint)
    fetched = download(location, job, folder)
    if fetched.report is not None:
        _print_report(fetched.report, folder)
    elif fetched.adapter is not None:
        print_line(f"adapter: {fetched.adapter}")
    if fetched.adapter is None:
        raise RunFailed(
            f"there is no adapter under {location.uri}, only a report; job {name} is {job.status.phase or 'new'}"
        )
    base = fetched.base_model or ""
    base_model_flag = " --base-model FOLDER" if base.startswith("file://") else ""
    print_line(f"next: promptintern predict {fetched.adapter}{base_model_flag} 'YOUR QUERY'")
    if base_model_flag:
        print_line(f"(the base model is at {base} in the cluster; FOLDER is your copy of it on this machine)")


def _connect(context: str | None, namespace: str | None) -> "Cluster":
    with without_collection():
        from promptintern.cluster.client import connect

    return connect(context=context, namespace=namespace)


def _flags(namespace: str | None, context: str | None) -> str:
    """Return the options, such as `` -n team-a``, with which another command reaches the same namespace and context."""
    return (f" -n {namespace}" if namespace else "") + (f" --context {context}" if context else "")


def _print_submitted(submitted: "SubmissionResult", *, file: Path, flags: str, dry_run: bool, is_waiting: bool) -> None:
    from promptintern.cluster.submit import Action

    job = submitted.job
    where, phase = f"{job.namespace}/{job.name}", job.status.phase or "new"
    message = {
        Action.CREATED: f"{where}: created",
        Action.UNCHANGED: f"{where}: already exists and does not differ from the file ({phase}); nothing was changed",
        Action.UPDATED: f"{where}: changed",
        Action.RETRIED: f"{where}: was {phase}, and is "
        + ("checked again" if job.status.start_time is None else "tried again; the run continues where it ended"),
        Action.REPLACED: f"{where}: was not accepted yet; its spec was replaced by that of {file}",
    }[submitted.action]
    print_line(f"{message} (dry run: nothing was stored)" if dry_run else message)
    for difference in submitted.differences:
        print_line(f"  {difference}")
    if dry_run:
        print_line(f"next: promptintern submit {file}{flags}")
    elif not is_waiting:
        for line in (
            f"promptintern status {job.name} --watch{flags}",
            f"promptintern logs {job.name} -f{flags}",
            f"promptintern fetch {job.name} ./{job.name}{flags}      (after it has succeeded)",
        ):
            print_line(f"next: {line}")


def _print_jobs(cluster: "Cluster", *, all_namespaces: bool) -> None:
    from promptintern.cluster.objects import now
    from promptintern.cluster.status_view import jobs_table

    jobs = cluster.jobs(all_namespaces=all_namespaces)
    if not jobs:
        print_line(
            "there are no jobs in any namespace"
            if all_namespaces
            else f"there are no jobs in namespace {cluster.namespace}; submit one with: promptintern submit JOB"
        )
        return
    console = output_console()
    console.print(jobs_table(jobs, now=now(), console=console, all_namespaces=all_namespaces))


def _print_job(console: Console, job: "ClusterJob", flags: str) -> None:
    from promptintern.cluster.objects import now
    from promptintern.cluster.status_view import job_blocks

    for block in job_blocks(job, now=now(), console=console, flags=flags):
        console.print(block, soft_wrap=isinstance(block, Text))


def _watch(cluster: "Cluster", name: str, flags: str) -> None:
    """Show the job until it ends or is refused, then exit as ``submit --wait`` does.

    Raises:
        RunFailed: if the job was deleted.
        typer.Exit: with 1 if the job failed, or with 2 if the job was refused.
    """
    console = output_console()
    try:
        last = _watch_live(console, cluster, name, flags) if console.is_terminal else _watch_lines(cluster, name)
    except KeyboardInterrupt:
        print_error(f"job {name} continues; watch it again with: promptintern status {name} --watch{flags}")
        raise
    if last is None:
        raise RunFailed(f"job {name} was deleted")
    _print_job(console, last, flags)
    if last.is_refused:
        raise typer.Exit(ExitCode.USER_ERROR)
    if last.status.phase != "Succeeded":
        raise typer.Exit(ExitCode.FAILED)


def _watch_live(console: Console, cluster: "Cluster", name: str, flags: str) -> "ClusterJob | None":
    """Show the job on a terminal until it ends or is refused. Return its last state, or None if it was deleted."""
    from rich.console import Group, RenderableType
    from rich.live import Live

    from promptintern.cluster.objects import Job, now
    from promptintern.cluster.status_view import job_blocks
    from promptintern.cluster.watch import Deleted, Interrupted, Resumed, watch_job

    shown: Job | None = None
    note: str | None = None

    def render() -> RenderableType:
        blocks = job_blocks(shown, now=now(), console=console, flags=flags) if shown else []
        return Group(*blocks, *([Text(note, style="yellow")] if note else []))

    with Live(get_renderable=render, console=console, refresh_per_second=1, transient=True) as live:
        for update in watch_job(cluster, name):
            match update:
                case Interrupted():
                    note = f"{update.reason}; trying again"
                case Resumed():
                    note = None
                case Deleted():
                    return None
                case _:
                    shown, note = update, None
                    if update.is_settled:
                        return update
            live.refresh()
    return shown


def _watch_lines(cluster: "Cluster", name: str, *, clock: Callable[[], float] = time.monotonic) -> "ClusterJob | None":
    """Print a line for each change of the job until it ends or is refused.

    Return the last state of the job, or None if it was deleted.
    """
    from promptintern.cluster.messages import changes, progress_line
    from promptintern.cluster.watch import Deleted, Interrupted, Resumed, watch_job

    before: ClusterJob | None = None
    last_progress: float = float("-inf")
    for update in watch_job(cluster, name):
        match update:
            case Interrupted():
                _print_timed(f"{update.reason}; trying again")
            case Resumed():
                _print_timed("the API server answers again")
            case Deleted():
                return None
            case _:
                lines = changes(before, update)
                for line in lines:
                    _print_timed(line)
                steps = progress_line(update)
                due = bool(lines) or clock() - last_progress >= _PROGRESS_SECONDS
                if steps and due and steps != (progress_line(before) if before else None):
                    _print_timed(steps)
                    last_progress = clock()
                before = update
                if update.is_settled:
                    return update
    return before


def _print_timed(text: str) -> None:
    print_line(f"{time.strftime('%H:%M:%S')} {text}")


def _print_report(folder: Path, parent: Path) -> None:
    """Print the verdict of the report in ``folder``, and where the report and the adapter are."""
    from pydantic import ValidationError

    from promptintern.report.schema import Report

    try:
        report = Report.model_validate_json((folder / REPORT_JSON).read_bytes())
    except (OSError, ValidationError):  # another version wrote the report
        print_line(f"report:  {folder}/{REPORT_HTML}")
        print_line(f"adapter: {parent}/{ADAPTER_FOLDER}")
        return
    from promptintern.cli.verdict import print_verdict

    print_verdict(report, str(parent))
