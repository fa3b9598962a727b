"""How the ending of a run is classified: as the user's mistake, a failure of the run, or of the infrastructure."""

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


class EndingObserver:
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
def test_a_worker_records_whose_failure_it_was(
    raised: Exception, how: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: WorkerTask) -> None:
        raise raised

    monkeypatch.setattr(worker, "work", fail)
    observer: Any = EndingObserver()
    task = WorkerTask(
        job=parsed_job(), store_uri="file:///x", claimant=Claimant(id="mine", newest_term=0), observer=observer
    )
    with pytest.raises(type(raised)):
        work_in_process_group(task)
    assert (observer.ending and observer.ending[0]) == how


@pytest.mark.parametrize(
    ("how", "kind"), [("user", UserError), ("failed", RunFailed), ("infrastructure", InfrastructureFailed)]
)
def test_the_driver_raises_what_a_worker_recorded(how: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        _raise_ending((how, [("spec.x", "told")]), None)
    assert type(raised.value) is kind


def _worker_group_error(*failures: Exception) -> WorkerGroupError:
    """Return the error that Ray itself makes of the errors of its workers."""
    ended = {rank: WorkerStatus(running=False, error=failure) for rank, failure in enumerate(failures)}
    return WorkerGroupPollStatus(worker_statuses=ended).get_worker_group_error()


def _user_exception(text: str, kind: type[Exception] = RuntimeError) -> Exception:
    return UserExceptionWithTraceback(kind(text), traceback_str=f"Traceback\n{kind.__name__}: {text}")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (_worker_group_error(_user_exception("a defect")), False),
        (ValueError("bad options for Ray"), False),
        (
            _worker_group_error(
                WorkerHealthCheckFailedError("rank 1", ActorDiedError()), _user_exception("waited in vain")
            ),
            True,
        ),
        (
            _worker_group_error(
                _user_exception("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.7]:1234")
            ),
            True,
        ),
        (_worker_group_error(_user_exception("stage 4/4, step 7 of 9", PodLeaving)), True),
        (_worker_group_error(_user_exception("Connection reset by peer"), _user_exception("a defect")), False),
        (ControllerError(WorkerGroupStartupTimeoutError(2)), True),
        (
            WorkerGroupError("Memory on the node (IP: 10.0.0.7) was 7.7GB used / 8.0GB limit", {0: ActorDiedError()}),
            False,
        ),
    ],
)
def test_lost_workers_are_a_failure_of_the_infrastructure(error: Exception, lost: bool) -> None:
    with pytest.raises(RunFailed) as raised:
        _raise_ending(None, error)
    assert isinstance(raised.value, InfrastructureFailed) == lost


FULL = "Memory on the node (IP: 10.0.0.7) was 7.7GB used / 8.0GB limit"


@pytest.mark.parametrize(
    ("error", "has_progressed", "again"),
    [
        (_worker_group_error(WorkerHealthCheckFailedError("rank 1", ActorDiedError())), True, True),
        (_worker_group_error(WorkerHealthCheckFailedError("rank 1", ActorDiedError())), False, False),
        (ControllerError(OutOfMemoryError(FULL)), True, False),
    ],
)
def test_lost_workers_are_restarted_while_the_run_makes_progress(
    error: Exception, has_progressed: bool, again: bool
) -> None:
    assert _can_restart(error, has_progressed=has_progressed) is again


def test_a_worker_that_was_killed_for_memory_failed_once() -> None:
    with pytest.raises(RunFailed, match=r"the workers failed with: OutOfMemoryError: .* 7.7GB of its .* 8.0GB"):
        _raise_ending(None, ControllerError(OutOfMemoryError(FULL)))


def test_unavailable_storage_is_a_failure_of_the_infrastructure() -> None:
    def unavailable() -> None:
        raise Transient("nobody answers")

    policy = RetryPolicy(deadline=0, sleep=lambda _: None)
    with pytest.raises(InfrastructureFailed):
        policy.run(unavailable, operation="PutObject", about={"bucket": "b"})


def test_credentials_that_worked_before_are_no_mistake_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They were replaced during the run, and the pods of the next attempt get the new ones."""

    def refuse(*_: object) -> None:
        raise CredentialsRefused.at("s3://bucket", "refused the credentials (ExpiredToken)")

    monkeypatch.setattr(worker, "load_data", lambda _: None)
    monkeypatch.setattr(worker, "open_session", lambda *_, **__: SimpleNamespace(folder=None))
    monkeypatch.setattr(worker, "_check_model", refuse)

    class SilentObserver(EndingObserver):
        def emit(self, event: object) -> None: ...

    observer: Any = SilentObserver()
    store = RunStore(open_store(tmp_path.as_uri()))
    task = WorkerTask(job=parsed_job(), store_uri=tmp_path.as_uri(), claimant=store.new_claimant(), observer=observer)
    with pytest.raises(InfrastructureFailed, match=r"ExpiredToken.*worked earlier in this run"):
        work_in_process_group(task)
    assert observer.ending[0] == "infrastructure"


def test_refused_credentials_of_the_model_are_a_mistake_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The run may be stored on this machine, so nothing has shown yet that the keys for the model work."""

    def refuse(*_: object, **__: object) -> None:
        raise CredentialsRefused.at("s3://models", "refused the credentials (InvalidAccessKeyId)")

    monkeypatch.setattr(worker, "load_data", lambda _: None)
    monkeypatch.setattr(worker, "open_session", refuse)
    observer: Any = SimpleNamespace(emit=lambda _: None)
    store = RunStore(open_store(tmp_path.as_uri()))
    task = WorkerTask(job=parsed_job(), store_uri=tmp_path.as_uri(), claimant=store.new_claimant(), observer=observer)
    with pytest.raises(CredentialsRefused):
        worker.work(task)
