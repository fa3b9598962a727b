"""How a run that ended badly is told: what nobody did wrong is no failure of the trainer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from promptintern.errors import CredentialsRefused, InfrastructureFailed, RunFailed, UserError
from promptintern.run import worker
from promptintern.run.driver import _can_restart, _raise_ending
from promptintern.run.worker import PodLeaving, WorkerTask, work_in_process_group
from promptintern.storage.retry import RetryPolicy, Transient
from promptintern.storage.run import Claimant, FencedOut, RunStore
from promptintern.storage.store import open_store
from promptintern_api import PromptInternJob, parse_job
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from tests.unit.api.documents import small_job


class Told:
    """An observer that keeps the ending."""

    def __init__(self) -> None:
        self.ending: tuple[str, list[tuple[str, str]]] | None = None

    def record_ending(self, kind: str, problems: list[tuple[str, str]]) -> None:
        self.ending = (kind, problems)

    def has_ending(self) -> bool:
        return False


def parsed_job() -> PromptInternJob:
    return parse_job(small_job())


@pytest.mark.parametrize(
    ("raised", "how"),
    [
        (UserError.at("spec.x", "is wrong"), "user"),
        (RunFailed("the loss is not finite"), "failed"),
        (InfrastructureFailed("the storage is away"), "infrastructure"),
        (FencedOut("another process took over", claimant="other"), "infrastructure"),
        (FencedOut("by our own newer workers", claimant="mine"), None),
    ],
)
def test_a_worker_tells_whose_failure_it_was(
    raised: Exception, how: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: WorkerTask) -> None:
        raise raised

    monkeypatch.setattr(worker, "work", fail)
    told: Any = Told()
    task = WorkerTask(
        job=parsed_job(), store_uri="file:///x", claimant=Claimant(id="mine", newest_term=0), observer=told
    )
    with pytest.raises(type(raised)):
        work_in_process_group(task)
    assert (told.ending and told.ending[0]) == how


@pytest.mark.parametrize(
    ("how", "kind"), [("user", UserError), ("failed", RunFailed), ("infrastructure", InfrastructureFailed)]
)
def test_the_driver_raises_what_a_worker_told(how: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        _raise_ending((how, [("spec.x", "told")]), None)
    assert type(raised.value) is kind


def _of_workers(*failures: Exception) -> WorkerGroupError:
    """As Ray itself makes it of what its workers ended with."""
    ended = {rank: WorkerStatus(running=False, error=failure) for rank, failure in enumerate(failures)}
    return WorkerGroupPollStatus(worker_statuses=ended).get_worker_group_error()


def _ours(text: str, kind: type[Exception] = RuntimeError) -> Exception:
    return UserExceptionWithTraceback(kind(text), traceback_str=f"Traceback\n{kind.__name__}: {text}")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (_of_workers(_ours("a defect")), False),
        (ValueError("bad options for Ray"), False),
        (_of_workers(WorkerHealthCheckFailedError("rank 1", ActorDiedError()), _ours("waited in vain")), True),
        (_of_workers(_ours("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.7]:1234")), True),
        (_of_workers(_ours("stage 4/4, step 7 of 9", PodLeaving)), True),
        (_of_workers(_ours("Connection reset by peer"), _ours("a defect")), False),
        (ControllerError(WorkerGroupStartupTimeoutError(2)), True),
        (
            WorkerGroupError("Memory on the node (IP: 10.0.0.7) was 7.7GB used / 8.0GB limit", {0: ActorDiedError()}),
            False,
        ),
    ],
)
def test_workers_that_were_lost_are_no_failure_of_ours(error: Exception, lost: bool) -> None:
    with pytest.raises(RunFailed) as raised:
        _raise_ending(None, error)
    assert isinstance(raised.value, InfrastructureFailed) == lost


FULL = "Memory on the node (IP: 10.0.0.7) was 7.7GB used / 8.0GB limit"


@pytest.mark.parametrize(
    ("error", "has_progressed", "again"),
    [
        (_of_workers(WorkerHealthCheckFailedError("rank 1", ActorDiedError())), True, True),
        (_of_workers(WorkerHealthCheckFailedError("rank 1", ActorDiedError())), False, False),
        (ControllerError(OutOfMemoryError(FULL)), True, False),
    ],
)
def test_lost_workers_are_started_again_while_the_run_gets_on(
    error: Exception, has_progressed: bool, again: bool
) -> None:
    assert _can_restart(error, has_progressed=has_progressed) is again


def test_a_worker_that_was_killed_for_memory_failed_once() -> None:
    with pytest.raises(RunFailed, match=r"the workers failed with: OutOfMemoryError: .* 7.7GB of its .* 8.0GB"):
        _raise_ending(None, ControllerError(OutOfMemoryError(FULL)))


def test_a_storage_that_stays_away_is_a_failure_of_the_infrastructure() -> None:
    def away() -> None:
        raise Transient("nobody answers")

    policy = RetryPolicy(deadline=0, sleep=lambda _: None)
    with pytest.raises(InfrastructureFailed):
        policy.run(away, operation="PutObject", about={"bucket": "b"})


def test_credentials_that_were_good_are_no_mistake_of_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They were replaced while the run was on: the next attempt's pods are given the new ones."""

    def refuse(*_: object) -> None:
        raise CredentialsRefused.at("s3://bucket", "refused the credentials (ExpiredToken)")

    monkeypatch.setattr(worker, "load_data", lambda _: None)
    monkeypatch.setattr(worker, "open_session", lambda *_, **__: SimpleNamespace(folder=None))
    monkeypatch.setattr(worker, "_check_model", refuse)

    class Listening(Told):
        def emit(self, event: object) -> None: ...

    observer: Any = Listening()
    store = RunStore(open_store(tmp_path.as_uri()))
    task = WorkerTask(job=parsed_job(), store_uri=tmp_path.as_uri(), claimant=store.new_claimant(), observer=observer)
    with pytest.raises(InfrastructureFailed, match=r"ExpiredToken.*worked earlier in this run"):
        work_in_process_group(task)
    assert observer.ending[0] == "infrastructure"


def test_a_models_credentials_were_never_good(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The run may be stored on this machine, which says nothing of the keys for the model."""

    def refuse(*_: object, **__: object) -> None:
        raise CredentialsRefused.at("s3://models", "refused the credentials (InvalidAccessKeyId)")

    monkeypatch.setattr(worker, "load_data", lambda _: None)
    monkeypatch.setattr(worker, "open_session", refuse)
    observer: Any = SimpleNamespace(emit=lambda _: None)
    store = RunStore(open_store(tmp_path.as_uri()))
    task = WorkerTask(job=parsed_job(), store_uri=tmp_path.as_uri(), claimant=store.new_claimant(), observer=observer)
    with pytest.raises(CredentialsRefused):
        worker.work(task)
