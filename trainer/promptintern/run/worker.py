"""The work of a training process. The process is a Ray worker, or the driver if no Ray workers are used."""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from promptintern_api import PromptInternJob
from promptintern_api.contract import MODEL_FILE, RUN_FORMAT

from promptintern.engine import distributed
from promptintern.errors import InfrastructureFailed, RunFailed, UserError, credentials_worked_before
from promptintern.leaving import register_process, wait_while_leaving
from promptintern.libraries import quiet_libraries
from promptintern.models.fetch import ModelFolder
from promptintern.pipeline.evaluation.judging import check_judges
from promptintern.pipeline.events import Claimed, Observer, Stopped
from promptintern.pipeline.facts import store_facts
from promptintern.pipeline.inputs import Data, load_data, s3_options
from promptintern.pipeline.internalize import internalize
from promptintern.pipeline.phases import Phase, PhaseClock, store_phases
from promptintern.pipeline.session import Session, open_session
from promptintern.pipeline.teaching.self_study import add_written_queries
from promptintern.pipeline.training import TrackTrainer
from promptintern.storage.background import BackgroundWriter
from promptintern.storage.run import Claimant, FencedOut, RunStore
from promptintern.storage.store import open_store
from promptintern.uris import display_uri


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """The input of a worker, which Ray pickles and sends to the worker's process."""

    job: PromptInternJob
    store_uri: str
    """The URI of the run's folder."""
    claimant: Claimant
    observer: Observer


def work(task: WorkerTask, data: Data | None = None) -> None:
    """Do the share of one worker in a run, from claiming the run to storing its facts.

    Args:
        data: The rows of the job, or None to load the rows here.

    Raises:
        UserError: if anything is wrong with the job, its data or its model.
        RunFailed: if the run failed.
        Stopped: if the run saved and stopped on request.
    """
    job = task.job
    store = RunStore(open_store(task.store_uri, s3=s3_options(job)))
    # Workers, not the driver, claim the run, because Ray Train may restart workers before all old ones have ended.
    process = {"pid": str(os.getpid()), "host": os.uname().nodename, "at": _now()}
    with credentials_worked_before():  # the driver registered the run with the same credentials
        term = distributed.from_rank_zero(lambda: store.claim_term(process, task.claimant))
    clock = PhaseClock()
    if distributed.rank() == 0:
        task.observer.emit(Claimed(term=term))
        clock = PhaseClock(lambda seconds: store_phases(store, term, seconds))
    with clock.phase(Phase.LOAD):
        session = open_session(job, data or load_data(job), local_rank=_local_rank(), clock=clock)
    with credentials_worked_before():
        with clock.phase(Phase.LOAD):
            _check_model(store, session.folder)
        try:
            _train(session, store, term, task.observer)
        except BaseException:
            with suppress(Exception):  # the first error counts
                clock.keep()
            raise
    distributed.barrier()


def _train(session: Session, store: RunStore, term: int, observer: Observer) -> None:
    check_judges(session.job.spec.evaluation, session.data.eval)
    with BackgroundWriter() as writer:
        with session.clock.phase(Phase.TEACH):
            session = add_written_queries(session, store, term=term, observer=observer)
        trainer = TrackTrainer(session, store, term=term, observer=observer, writer=writer)
        outcome = internalize(session, store, trainer, observer)
        if distributed.rank() == 0:
            store.check_term(term)
            session.clock.keep()
            store_facts(replace(session, lessons=outcome.lessons), store, outcome)


class PodLeaving(Exception):  # noqa: N818 -- an event, not an error
    """A worker's pod is about to be deleted. Everything is saved, and Ray Train must restart the workers elsewhere."""


def work_in_process_group(task: WorkerTask) -> None:
    """Call ``work`` in a Ray worker, and record why it ended early if a restart of the workers cannot help.

    Errors are raised again after they are recorded, because other workers may be waiting for this one. Ray Train then
    restarts all workers. If an ending is recorded, restarted workers return at once; otherwise, for example after the
    loss of a node, they continue from the newest checkpoint.
    """
    quiet_libraries()
    if task.observer.has_ending():
        return
    wait_while_leaving()
    try:
        with register_process("worker"):
            work(task)
    except Stopped as stopped:
        if distributed.rank() == 0:
            if task.observer.record_saved(stopped.where):
                raise PodLeaving(stopped.where) from None
            task.observer.record_ending("stopped", [("", stopped.where)])
    except UserError as error:
        task.observer.record_ending("user", [(p.where, p.message) for p in error.problems])
        raise
    except FencedOut as fenced:
        # If this driver's own newer workers have taken over, their ending counts, not this one.
        if fenced.claimant != task.claimant.id:
            task.observer.record_ending("infrastructure", [("", str(fenced))])
        raise
    except InfrastructureFailed as error:
        task.observer.record_ending("infrastructure", [("", str(error))])
        raise
    except RunFailed as error:
        task.observer.record_ending("failed", [("", str(error))])
        raise


def _check_model(store: RunStore, folder: ModelFolder) -> None:
    """Record the digest of the base model in storage, or check that it equals the digest recorded when the run began.

    Raises:
        UserError: if the base model has changed since the run began.
        RunFailed: if the stored record contains no digest.
    """
    digest = folder.digest()

    def recorded_digest() -> str:
        if store.create_json(MODEL_FILE, {"schemaVersion": RUN_FORMAT, "uri": folder.uri, "digest": digest}):
            return digest
        recorded = (store.read_json(MODEL_FILE) or {}).get("digest")
        if not isinstance(recorded, str):
            raise RunFailed(
                f"{display_uri(store.store.uri)}/{MODEL_FILE} does not record the base model that the run began "
                "with; remove the file"
            )
        return recorded

    if distributed.from_rank_zero(recorded_digest) != digest:
        raise UserError.at(
            "spec.model.uri",
            "the base model has changed since this run began; use a revision or a folder that does not change, give "
            f"the job another name, or remove {display_uri(store.store.uri)}",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _local_rank() -> int:
    """Return the rank of this worker among the workers on its node. A single worker has the local rank 0."""
    if distributed.world_size() == 1:
        return 0
    from ray import train

    return int(train.get_context().get_local_rank())
