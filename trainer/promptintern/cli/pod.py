"""The commands `promptintern pod ...`, which only the operator's pods run. The help does not show them to users."""

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from promptintern_api.contract import ENV_RAY_JOB, LOGS_FOLDER, ExitCode, PodRole

from promptintern.errors import UserError

_BEFORE_LOGS_SECONDS = 10.0
"""The wait in seconds before the sidecar imports anything, so that it does not slow down the start of Ray."""
app = typer.Typer(name="pod", help="Commands that the operator's pods run.", no_args_is_help=True)

Job = Annotated[Path, typer.Argument(metavar="JOB", help="File with the resolved job.")]
Digest = Annotated[str | None, typer.Option("--sha256", help="Digest that the file must have.")]


@app.command()
def drive(job: Job, sha256: Digest = None) -> None:
    """Run the job in this pod's Ray cluster, and write its progress to the job's status."""
    from promptintern.cli.console import StopFlag, terminal_observer
    from promptintern.cli.findings import exiting_on_infrastructure_failure
    from promptintern.cli.verdict import print_verdict
    from promptintern.pod.timed import print_times

    print_times()
    stop = StopFlag()
    with stop.installed(), exiting_on_infrastructure_failure():
        from promptintern.job import load_job
        from promptintern.pipeline.events import Stopped
        from promptintern.pod.drive import drive as run_driver

        loaded = load_job(job, sha256=sha256)
        try:
            with terminal_observer(stop) as observer:
                report, uri = run_driver(loaded, observer)
        except Stopped as stopped:
            print(f"saved at {stopped.where}; the next attempt continues there", flush=True)
            raise typer.Exit(128 + (stop.signal or signal.SIGTERM)) from None
    print_verdict(report, uri)


@app.command()
def save(
    role: Annotated[str, typer.Option(help="Role of this pod: head or worker.")],
    seconds: Annotated[float, typer.Option(min=0, help="Longest wait, in seconds.")],
) -> None:
    """Ask this pod's trainer to save, and wait until it has ended. The pod's preStop hook runs this command."""
    from promptintern.leaving import pod_folder
    from promptintern.pod.save import save as save_and_wait

    folder = pod_folder()
    if folder is not None and not save_and_wait(folder, role=role, seconds=seconds):
        raise typer.Exit(ExitCode.FAILED)


@app.command("ship-logs")
def ship_logs(
    job: Job,
    role: Annotated[PodRole, typer.Option(help="Role of this pod: head or worker.")] = PodRole.HEAD,
    sha256: Digest = None,
) -> None:
    """Upload the tails of this pod's logs of Ray to storage until the pod ends. The log sidecar runs this command."""
    import os
    import socket

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait(_BEFORE_LOGS_SECONDS)
    # The sidecar has little memory, so nothing here may import torch.
    from promptintern.job import load_job, run_folder
    from promptintern.pod.log_upload import upload_logs
    from promptintern.storage.options import S3Options
    from promptintern.storage.store import open_store

    loaded = load_job(job, sha256=sha256)
    if loaded.spec.storage is None:
        raise UserError.at("spec.storage", "is required")
    storage = loaded.spec.storage
    store = open_store(storage.uri, s3=S3Options.of(storage)).child(run_folder(loaded))
    folder = store.child(LOGS_FOLDER, os.environ.get(ENV_RAY_JOB, "local"))
    upload_logs(folder if role is PodRole.HEAD else folder.child(socket.gethostname()), stop, role=role)
