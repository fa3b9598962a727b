"""The command line ``promptintern COMMAND``. Commands import their modules when they run, so that the help is fast."""

import atexit
import contextlib
import io
import os
import sys
import tempfile
import traceback
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from promptintern_api.contract import ExitCode

from promptintern.advice import is_in_job
from promptintern.cli import cluster, pod
from promptintern.cli.options import BaseModel, JobFile, Overrides
from promptintern.errors import RunFailed, UserError
from promptintern.libraries import quiet_libraries
from promptintern.terminal import print_error, print_line
from promptintern.uris import to_uri

app = typer.Typer(
    name="promptintern",
    help="Internalize a recurring prompt into LoRA weights, stage by stage, and report whether it worked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

app.add_typer(pod.app, hidden=True)

Workdir = Annotated[
    Path | None,
    typer.Option(
        "--workdir",
        metavar="DIR",
        help="Folder to store runs in.",
        show_default="spec.storage of the job, else ./promptintern-runs",
    ),
]


def _version(is_requested: bool) -> None:
    if is_requested:
        from importlib.metadata import version

        print(f"promptintern {version('promptintern')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Internalize a recurring prompt into LoRA weights, stage by stage, and report whether it worked."""


@app.command(epilog="Example: promptintern run examples/quickstart.yaml --set training.seed=1")
def run(
    job: JobFile,
    workdir: Workdir = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0, max=1024, help="Number of training processes on this machine; with 0, the command itself trains."
        ),
    ] = 0,
    overrides: Overrides = None,
) -> None:
    """Run all stages and arms of a job and write the report. After an interruption, run the command again to resume."""
    from promptintern.cli.console import StopFlag, terminal_observer

    stop = StopFlag()
    with stop.installed():
        from promptintern_api.training_status import VerdictOutcome

        from promptintern.cli.verdict import print_verdict
        from promptintern.job import load_job
        from promptintern.pipeline.events import Stopped
        from promptintern.run.driver import open_run, run_job

        loaded = load_job(job, overrides or [])
        storage_uri = _storage_uri(workdir, loaded.spec.storage.uri if loaded.spec.storage else None)
        try:
            with terminal_observer(stop) as observer:
                report = run_job(loaded, storage_uri=storage_uri, workers=workers, observer=observer)
        except Stopped as stopped:
            print_error(f"saved at {stopped.where}; run the same command again to continue")
            raise typer.Exit(128 + (stop.signal or 15)) from None
    print_verdict(report, open_run(loaded, storage_uri).store.uri)
    if report.verdict.outcome is VerdictOutcome.STOPPED_BY_GATE:
        raise typer.Exit(ExitCode.FAILED)


@app.command(epilog="Example: promptintern validate job.yaml")
def validate(
    job: JobFile,
    overrides: Overrides = None,
    findings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the problems to this file, as JSON.", hidden=True)
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="Digest that the file must have.", hidden=True)] = None,
) -> None:
    """Check everything that can be checked without training, and list every problem with its field or file:line."""
    from promptintern.cli.findings import exiting_on_infrastructure_failure, writing_findings
    from promptintern.commands.validate import check_job
    from promptintern.job import load_job

    with exiting_on_infrastructure_failure() if findings else contextlib.nullcontext(), writing_findings(findings):
        # Only pods write findings. Pods have the job's credentials, so the storage can be checked as well.
        result = check_job(load_job(job, overrides or [], sha256=sha256), storage=findings is not None)
    for warning in result.warnings:
        print_error(f"warning: {warning}", style="yellow")
    if result.problems:
        with writing_findings(findings):
            raise UserError(result.problems)
    for line in result.summary:
        print_line(line)


@app.command(epilog="Example: promptintern prepare examples/quickstart.yaml --row 3")
def prepare(
    job: JobFile,
    overrides: Overrides = None,
    row: Annotated[int, typer.Option(min=0, help="Index of the training row to show, from 0.")] = 0,
    is_estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Say whether it is worth trying: answer 50 held-out rows, and time some steps."
        ),
    ] = False,
) -> None:
    """Show what would be trained: a table of the stages, and the prompt of one row at every stage.

    If the base model is to write queries (data.generate), 20 queries of this kind are shown as well.
    """
    from promptintern.cli.console import StopFlag, terminal_observer
    from promptintern.cli.estimate import print_estimate
    from promptintern.cli.preview import print_preview
    from promptintern.commands.estimate import estimate
    from promptintern.commands.preview import preview
    from promptintern.job import load_job

    with terminal_observer(StopFlag()) as observer:  # signals end the command at once, because it stores nothing
        loaded = load_job(job, overrides or [])
        show = (
            partial(print_estimate, estimate(loaded, observer=observer))
            if is_estimate
            else partial(print_preview, preview(loaded, row=row, observer=observer))
        )
    show()


@app.command(
    epilog="Example: promptintern predict ./quickstart/adapter 'In the north, what is the highest bonus and miles?'"
)
def predict(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Folder or URI of the adapter, or of its run.")],
    query: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUERY", help="Queries to answer. Without any, standard input is read, one query per line."
        ),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="JSONL",
            help="Read the queries from this JSONL file, from the field `query` of each object.",
        ),
    ] = None,
    output_file: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="JSONL",
            help="Write one JSON object per query to this file (- for standard output): the fields of the input, "
            "and `answer`.",
        ),
    ] = None,
    base_model: BaseModel = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of queries per batch.")] = 32,
) -> None:
    """Answer queries with the internalized model, which receives each query without the prompt.

    If a gate stopped the run, each query is sent with the prompt of the stage that was kept. For an adapter on an S3
    server other than AWS, set AWS_ENDPOINT_URL.
    """
    from promptintern.cli.predict import answer_queries

    answer_queries(
        adapter=adapter,
        queries=query or [],
        input_file=input_file,
        output_file=output_file,
        base_model=to_uri(base_model) if base_model else None,
        batch_size=batch_size,
    )


@app.command(epilog="Example: promptintern report promptintern-runs/default/quickstart-1a2b3c4d")
def report(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder or URI of a run.")],
) -> None:
    """Rebuild the report of a run from its stored files."""
    from promptintern.cli.verdict import print_verdict
    from promptintern.pipeline.facts import write_report
    from promptintern.storage.run import RunStore
    from promptintern.storage.store import open_store

    store = RunStore(open_store(to_uri(run_folder)))
    print_verdict(write_report(store), store.store.uri)


@app.command(epilog="Example: promptintern compare promptintern-runs/default/* --output compare.md")
def compare(
    run_folders: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders or URIs of finished runs.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the table as Markdown (.md) or as a page (.html).")
    ] = None,
) -> None:
    """Put several runs into one table. Runs that differ only in their seeds are one row, with their spread."""
    from promptintern.cli.compare import compare_runs

    compare_runs([to_uri(folder) for folder in run_folders], output)


@app.command(epilog="Example: promptintern export promptintern-runs/default/quickstart-1a2b3c4d --merged ./merged")
def export(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder or URI of a run.")],
    merged: Annotated[
        Path,
        typer.Option(
            "--merged", metavar="DIR", help="Folder to write the merged model to; it must be empty or not exist yet."
        ),
    ],
    base_model: BaseModel = None,
) -> None:
    """Merge the adapter into the base weights, and print how much the merged model's logits drift."""
    from promptintern.commands.export import export_merged

    drift = export_merged(to_uri(run_folder), merged, base_model=to_uri(base_model) if base_model else None)
    print_line(f"merged model: {merged}")
    print_line(
        f"drift over {drift.positions} positions: the largest logit difference is {drift.largest_difference:.3g} "
        f"(the largest logit is {drift.largest_logit:.3g}), and the next token is equal at "
        f"{100 * drift.agreement:.1f} %"
    )


cluster.register(app)


def _storage_uri(workdir: Path | None, job_uri: str | None) -> str:
    if workdir is None and job_uri is not None:
        return job_uri
    return to_uri(str(workdir or "promptintern-runs"))


def main() -> None:
    """Run the command line. Exit with 2 after a user's mistake and with 1 after a failed run, without a traceback."""
    quiet_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for terminals without Unicode
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except UserError as error:
        for problem in error.problems:
            print_error(f"error: {problem}", style="red")
        if len(error.problems) > 1:
            print_error(f"{len(error.problems)} problems")
        sys.exit(ExitCode.USER_ERROR)
    except RunFailed as error:
        print_error(f"failed: {error}", style="red")
        sys.exit(ExitCode.FAILED)
    except KeyboardInterrupt:
        print_error("interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.FAILED)
    except OSError as error:
        print_error(
            f"failed: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""), style="red"
        )
        sys.exit(ExitCode.FAILED)
    except Exception as error:  # noqa: BLE001 -- a bug: print one line, and save the traceback
        place = _save_traceback() if not is_in_job() else _print_traceback()
        print_error(f"failed: {type(error).__name__}: {error}", style="red")
        print_error(f"this is a bug in promptintern; the traceback is {place}")
        sys.exit(ExitCode.FAILED)


def _save_traceback() -> str:
    """Save the traceback of the current exception to a file, and say where it is."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="promptintern-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
    except OSError as error:
        return f"lost, because no file could be written: {error.strerror}"
    return f"in {file.name}"


def _print_traceback() -> str:
    """Print the traceback of the current exception to the log, because a pod's files are lost with the pod."""
    traceback.print_exc()
    return "above"


def program() -> None:
    """Run the command line in a process of its own.

    The process ends after the functions that commands and libraries register with atexit while they run, without
    freeing every object first, which takes a second of CPU time if transformers was imported. Functions that were
    registered before, such as the shutdown of the module logging, are not called; they have nothing to do here.
    """
    code: int = ExitCode.FAILED

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(end)  # Functions that are registered later are called earlier.
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise


if __name__ == "__main__":
    program()
