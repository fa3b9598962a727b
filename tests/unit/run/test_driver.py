"""The driver: its message for failed workers, how it stops, and that it writes nothing once it is fenced out."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from promptintern.errors import InfrastructureFailed, UserError
from promptintern.pipeline.events import Stopped
from promptintern.run import driver
from promptintern.run.driver import failure_cause
from promptintern.run.worker import WorkerTask
from promptintern.storage.run import FencedOut, RunStore
from promptintern.storage.store import open_store
from promptintern_api.contract import ENV_RAY_JOB

from tests.unit.operator.builders import job

OUT_OF_MEMORY = """Training failed due to controller error:
1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: 85262e) was \
1.07GB used / 1.12GB limit (0.952894)
OOM kill reason: Memory usage 1147506688B exceeded threshold of 1145569280B (95.0% of 1205862400B limit)
Refer to the documentation on how to address the out of memory issue. Set max_restarts and max_task_retries ..."""


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (
            OUT_OF_MEMORY,
            "OutOfMemoryError: Ray killed a worker that used 1.07GB of its pod's or machine's 1.12GB of memory",
        ),
        ("Training failed due to worker errors:\nValueError: no such column\n", "ValueError: no such column"),
        ("", "RuntimeError"),
    ],
)
def test_the_cause_is_one_line(message: str, cause: str) -> None:
    assert failure_cause(RuntimeError(message)) == cause


class Remote:
    """A method of an actor that answers at once; ``ray.get`` of the answer is the answer."""

    def __init__(self, answer: Callable[[], object]) -> None:
        self.remote = answer


class SilentMailbox:
    """The mailbox of workers that had started, and whose last call was ``silence`` seconds ago."""

    def __init__(self, silence: float) -> None:
        self.take = Remote(list)
        self.request_stop = Remote(lambda: None)
        self.saved_at = Remote(lambda: None)
        self.seconds_since_contact = Remote(lambda: silence)


class StoppingObserver:
    """An observer that requests a stop."""

    def stop_requested(self) -> bool:
        return True

    def emit(self, event: object) -> None: ...


def test_a_stop_does_not_wait_for_workers_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda answer: answer)
    observer: Any = StoppingObserver()
    with pytest.raises(Stopped, match="the newest checkpoint"):
        driver._forward_events(SilentMailbox(silence=61), observer, until=Future())


def test_a_stop_waits_for_workers_that_save(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda answer: answer)
    observer: Any = StoppingObserver()
    fit: Future[None] = Future()
    mailbox = SilentMailbox(silence=0)
    mailbox.saved_at = Remote(lambda: fit.done() or fit.set_result(None))  # they end at the second poll
    driver._forward_events(mailbox, observer, until=fit)


def test_a_stop_does_not_wait_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.remote", lambda _: SimpleNamespace(options=lambda **_: Remote(lambda: "reference")))
    monkeypatch.setattr("ray.wait", lambda references, timeout: ([], references))
    observer: Any = StoppingObserver()
    with pytest.raises(Stopped):
        driver._check_gpus(job(compute__gpusPerWorker=1), observer)


def test_a_run_that_another_version_began_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = driver.open_run(job(), tmp_path.as_uri())
    store.create_json("job.json", {"schemaVersion": "1.0", "data": {}})
    monkeypatch.setattr(driver, "load_data", lambda _: SimpleNamespace(warnings=[], digests={}))
    observer: Any = StoppingObserver()
    with pytest.raises(UserError, match=r"job\.json: was written by another version.*run format 1\.0.*another name"):
        driver.run_job(job(), storage_uri=tmp_path.as_uri(), workers=0, observer=observer)
    assert store.newest_term() == 0


def test_a_driver_that_is_fenced_out_writes_no_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def taken_over(task: WorkerTask, _data: object) -> None:
        store = RunStore(open_store(task.store_uri))
        store.claim_term({"host": "here"}, task.claimant)
        store.claim_term({"host": "elsewhere"})

    def fail(_: object) -> None:
        raise AssertionError("a report was written")

    monkeypatch.setattr(driver, "load_data", lambda _: SimpleNamespace(warnings=[], digests={}))
    monkeypatch.setattr(driver, "work", taken_over)
    monkeypatch.setattr(driver, "write_report", fail)
    observer: Any = StoppingObserver()
    with pytest.raises(FencedOut, match="host elsewhere"):
        driver.run_job(job(), storage_uri=tmp_path.as_uri(), workers=0, observer=observer)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "ray://127.0.0.1:1", "x"])
def test_an_address_where_no_ray_cluster_is_is_the_users_mistake(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.delenv(ENV_RAY_JOB, raising=False)
    with pytest.raises(UserError, match="no Ray cluster can be reached at") as raised, driver._ray(1):
        pass
    assert raised.value.problems[0].where == "RAY_ADDRESS"
    assert address in str(raised.value)


def test_a_pod_that_cannot_reach_its_ray_cluster_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv(ENV_RAY_JOB, "small-a1")
    with pytest.raises(InfrastructureFailed, match="cannot be reached"), driver._ray(1):
        pass
