"""The driver of a run, which registers the run in storage, starts the workers, and writes the report at the end."""

import contextlib
import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from promptintern_api import PromptInternJob
from promptintern_api.contract import ENV_RAY_JOB, JOB_FILE, RUN_FORMAT

from promptintern.advice import run_again
from promptintern.errors import (
    InfrastructureFailed,
    Problem,
    RunFailed,
    UserError,
    credentials_worked_before,
    first_line,
)
from promptintern.job import run_folder
from promptintern.pipeline.events import Note, Observer, Stopped
from promptintern.pipeline.facts import write_report
from promptintern.pipeline.inputs import FILE_FIELDS, load_data, s3_options
from promptintern.report.schema import Report
from promptintern.run.scaling import gpus_per_pod, scaling_config, world_size
from promptintern.run.worker import WorkerTask, work, work_in_process_group
from promptintern.storage.job_file import read_job
from promptintern.storage.run import RunStore
from promptintern.storage.store import open_store
from promptintern.uris import display_uri

MAX_WORKER_FAILURES = 3
"""The number of times that Ray Train restarts the workers after one of them has failed."""
_POLL_SECONDS = 0.2
_CONTACT_TIMEOUT_SECONDS = 60.0
"""The number of seconds without a call from a worker after which all workers count as lost.

Each worker calls the mailbox twice a second.
"""
_RAY_ANSWERS_SECONDS = 30.0
"""The seconds within which a server at ``RAY_ADDRESS`` must accept a connection."""
_OUT_OF_MEMORY = re.compile(r"Memory on the node .* was (\S+) used / (\S+) limit")
"""A pattern that finds the used memory and the limit in the message of Ray's OutOfMemoryError."""
_CONNECTION_LOST = re.compile(r"gloo/transport|Connection (?:reset|closed) by peer|DistBackendError|PodLeaving")
"""A pattern of errors in a worker after the loss of another worker or of its own pod. Ray may notice the loss later."""


def open_run(job: PromptInternJob, storage_uri: str) -> RunStore:
    """Return the store of the run of ``job``, which is a folder below ``storage_uri``."""
    return RunStore(open_store(storage_uri, s3=s3_options(job)).child(run_folder(job)))


def run_job(job: PromptInternJob, *, storage_uri: str, workers: int, observer: Observer) -> Report:
    """Run ``job``, or continue its run from the state in storage, and return the report.

    Args:
        storage_uri: The URI of the folder that holds the folders of runs. It begins with ``file://`` or ``s3://``.
        workers: The number of pods, or what stands for them on this machine, each with a worker per GPU; if it is 0,
            this process trains.

    Raises:
        UserError: if anything is wrong with the job, its data or its model.
        RunFailed: if the run failed.
        Stopped: if the run saved and stopped on request.
    """
    data = load_data(job)
    for warning in data.warnings:
        observer.emit(Note(text=warning, warning=True))
    store = open_run(job, storage_uri)
    _register(job, store, data.digests)
    task = WorkerTask(job=job, store_uri=store.store.uri, claimant=store.new_claimant(), observer=observer)
    if workers == 0:
        work(task, data)
    else:
        _train_on_ray(job, task, workers, observer)
    with credentials_worked_before():
        store.check_claimant(task.claimant)
        return write_report(store)


def _register(job: PromptInternJob, store: RunStore, digests: dict[str, str]) -> None:
    """Write ``job.json`` to storage, or check that the file there records data files with the same digests.

    Raises:
        UserError: if the data files have changed since the run began, or a version of promptintern with another format
            began the run.
        RunFailed: if ``job.json`` is not a valid record of a run.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"schemaVersion": RUN_FORMAT, "job": job.to_wire(), "data": digests, "created": created}
    if store.create_json(JOB_FILE, document):
        return
    registered = read_job(store)
    if registered is None or not isinstance(registered.get("data"), dict):
        raise RunFailed(
            f"{display_uri(store.store.uri)}/{JOB_FILE} does not record the data that the run began with; "
            "remove the folder of the run"
        )
    changed = [role for role, digest in digests.items() if registered["data"].get(role) != digest]
    if changed:
        raise UserError(
            [
                Problem(
                    where=f"{FILE_FIELDS[role]}.uri",
                    message=f"the file has changed since this run began on {registered.get('created')}; give the job "
                    f"another name, or remove {display_uri(store.store.uri)}",
                )
                for role in changed
            ]
        )


def _set_ray_environment() -> None:
    """Set the environment variables that Ray reads when it is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # the driver's log is a file
    # A worker imports torch before it answers, which takes a long time on a small or busy machine.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    # The watcher takes seconds to start, and waits for Ray's own autoscaler to remove nodes, which never happens here.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Workers run in this environment, not in a new one that uv creates.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


def _train_on_ray(job: PromptInternJob, task: WorkerTask, pods: int, observer: Observer) -> None:
    _set_ray_environment()
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from promptintern.run.ray_observer import FailureNotes, Mailbox, RayObserver

    gpus, workers = gpus_per_pod(job.spec.compute), world_size(job.spec.compute, pods)
    observer.emit(Note(text=f"starting Ray with {workers} worker{'s' if workers > 1 else ''}"))
    with _ray(workers), tempfile.TemporaryDirectory(prefix="promptintern-ray-") as folder:
        # The mailbox runs on the driver's node. In a worker's pod, it and thus the run would be lost with the pod.
        on_driver_node = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
        mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=on_driver_node).remote()
        remote_task = replace(task, observer=RayObserver(mailbox))
        trainer = partial(
            TorchTrainer,
            _train_loop,
            train_loop_config={"task": remote_task},
            scaling_config=scaling_config(job.spec.compute, pods),
            run_config=RunConfig(
                storage_path=folder,
                failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES),
                logging_config=LoggingConfig(log_level="ERROR"),
                callbacks=[FailureNotes(mailbox)],
            ),
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo", timeout_s=3600),
        )
        if gpus:
            _check_gpus(job, observer)
        while True:
            count_before = ray.get(mailbox.progress_count.remote())
            error = _run_trainer(trainer(), mailbox, observer)
            ending = ray.get(mailbox.ending.remote())
            has_progressed = ray.get(mailbox.progress_count.remote()) != count_before
            if error is None or ending is not None or not _can_restart(error, has_progressed=has_progressed):
                break
            observer.emit(
                Note(text="workers were lost, but the run had made progress; starting workers again", warning=True)
            )
        _raise_ending(ending, error)


def _run_trainer(trainer: Any, mailbox: Any, observer: Observer) -> BaseException | None:
    """Train until the workers have finished or Ray Train gives up. Return the error that ended training, or None."""
    import ray

    # Ray runs on another thread, where it leaves Ctrl-C to us. Meanwhile, this thread forwards the workers' events.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray-train") as thread:
        fit = thread.submit(trainer.fit)
        try:
            _forward_events(mailbox, observer, until=fit)
        except BaseException:
            ray.shutdown()  # ends the workers at once, and thus the thread
            raise
    return fit.exception()


def _check_gpus(job: PromptInternJob, observer: Observer) -> None:
    """Check that PyTorch sees the requested GPUs in a worker's pod, before any worker loads the model.

    Raises:
        UserError: if PyTorch sees fewer GPUs than the job requests.
        Stopped: if a stop was requested before the check has finished.
    """
    import ray

    requested = job.spec.compute.gpus_per_worker
    visible_ref = ray.remote(_visible_gpus).options(num_gpus=requested, num_cpus=0).remote()
    while not ray.wait([visible_ref], timeout=_POLL_SECONDS)[0]:
        if observer.stop_requested():
            raise Stopped("the start")
    visible = ray.get(visible_ref)
    if visible < requested:
        raise UserError.at(
            "spec.compute.gpusPerWorker",
            f"is {requested}, but the number of GPUs that PyTorch sees in a worker's pod is {visible}; check the "
            "driver of the node and the CUDA version of the image, or set compute.device: CPU and gpusPerWorker: 0",
        )


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _train_loop(config: dict[str, Any]) -> None:
    work_in_process_group(config["task"])


def _raise_ending(ending: Any, error: BaseException | None) -> None:
    if ending is not None:
        kind, problems = ending
        if kind == "user":
            raise UserError([Problem(where=where, message=message) for where, message in problems])
        if kind == "stopped":
            raise Stopped(problems[0][1])
        if kind == "infrastructure":
            raise InfrastructureFailed(problems[0][1])
        raise RunFailed(problems[0][1])
    if error is not None:
        times = "" if _is_out_of_memory(error) else f" {MAX_WORKER_FAILURES + 1} times, the last time"
        raise (InfrastructureFailed if _is_worker_loss(error) else RunFailed)(
            f"the workers failed{times} with: {failure_cause(error)}; {run_again()}"
        ) from error


def _can_restart(error: BaseException, *, has_progressed: bool) -> bool:
    """Return whether the driver should start the workers again after Ray Train has given up on them.

    It should do so if the run has made progress, unless a worker was killed for using too much memory. After such
    a kill, Ray Train itself fails and keeps the resources of the dead workers reserved, so new workers would wait for
    these resources forever. New workers would also need as much memory again.
    """
    return has_progressed and not _is_out_of_memory(error)


def _is_out_of_memory(error: BaseException) -> bool:
    return _OUT_OF_MEMORY.search(str(error)) is not None


def failure_cause(error: BaseException) -> str:
    """Return a line that says why the workers ended.

    The line is usually the last one of the error's message. If Ray killed a worker for using too much memory, the cause
    stands in the middle of the message, before a page of advice on Ray's own settings.
    """
    message = str(error).strip()
    if memory := _OUT_OF_MEMORY.search(message):
        used, limit = memory.groups()
        return f"OutOfMemoryError: Ray killed a worker that used {used} of its pod's or machine's {limit} of memory"
    return message.splitlines()[-1] if message else type(error).__name__


def _is_worker_loss(error: BaseException) -> bool:
    """Return whether the infrastructure failed, so that Ray lost workers or could not start them.

    Return False if the code of the trainer failed or used too much memory."""
    from ray.train import TrainingFailedError, WorkerGroupError

    if _is_out_of_memory(error):
        return False
    if not isinstance(error, WorkerGroupError):
        return isinstance(error, TrainingFailedError)
    failures = error.worker_failures.values()
    # Ray passes on errors of our code as they were raised, but reports the loss of a worker as its own exception.
    was_lost_by_ray = any(type(failure).__module__.partition(".")[0] == "ray" for failure in failures)
    return was_lost_by_ray or all(
        _CONNECTION_LOST.search(f"{type(failure).__name__}: {failure}") for failure in failures
    )


@contextlib.contextmanager
def _ray(workers: int) -> Iterator[None]:
    """Inside this block, stay connected to the Ray cluster at ``RAY_ADDRESS``, or else to a new one on this machine."""
    import ray

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if address := os.environ.get("RAY_ADDRESS"):
        _check_ray_address(address)
        try:
            # Users read the driver's log, so it has the output of all processes, and of Ray's own log only errors.
            ray.init(log_to_driver=True, logging_config=ray.LoggingConfig(log_level="ERROR"))
        except (ConnectionError, ValueError) as error:
            raise _unreachable_ray(address, error) from None
        except RuntimeError as error:  # such as another version of Ray or Python, which Ray explains in several lines
            raise UserError.at("RAY_ADDRESS", f"cannot be used ({address}): {' '.join(str(error).split())}") from None
    else:
        ray.init(
            num_cpus=max(workers, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address="127.0.0.1",
        )
    # Ray's own handlers would end the driver before its workers have saved.
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check_ray_address(address: str) -> None:
    """Check that a server listens at ``address``, because Ray itself tries for minutes and then ends the process."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return  # such as auto, local, or an address of another form, which Ray accepts or refuses at once
    host = host.rpartition("//")[2].strip("[]")
    try:
        socket.create_connection((host, int(port)), timeout=_RAY_ANSWERS_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _unreachable_ray(address, error) from None


def _unreachable_ray(address: str, error: Exception) -> Exception:
    """Return the error of a Ray cluster that is not at ``address``, which only outside a pod is the user's choice."""
    if os.environ.get(ENV_RAY_JOB):
        return InfrastructureFailed(f"the Ray cluster cannot be reached at {address} ({first_line(error)})")
    return UserError.at(
        "RAY_ADDRESS",
        f"no Ray cluster can be reached at {address} ({first_line(error)}); start one with `ray start --head`, or "
        "unset the environment variable to train without one",
    )


def _forward_events(mailbox: Any, observer: Observer, *, until: "Future[Any]") -> None:
    """Forward the workers' events to ``observer``, and its request to stop to the workers, until ``until`` is done.

    Raises:
        Stopped: if a stop was requested and no worker is running that could save the state of the run.
    """
    import ray

    is_stop_sent = False
    while True:
        is_done = until.done()
        for event in ray.get(mailbox.take.remote()):
            observer.emit(event)
        if is_done:
            return
        if observer.stop_requested() and not is_stop_sent:
            is_stop_sent = True
            ray.get(mailbox.request_stop.remote())
        if is_stop_sent and (where := ray.get(mailbox.saved_at.remote())) is not None:
            raise Stopped(where)  # no worker is running: none has started, or all saved for a leaving pod
        if is_stop_sent and ray.get(mailbox.seconds_since_contact.remote()) > _CONTACT_TIMEOUT_SECONDS:
            raise Stopped("the newest checkpoint")  # the workers were lost, and Ray Train waits for new ones
        time.sleep(_POLL_SECONDS)
