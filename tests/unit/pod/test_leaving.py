"""The preStop hook and the trainer, which communicate through a folder."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from promptintern import leaving
from promptintern.pod import save as hook
from promptintern.pod.log_upload import tail, upload_logs
from promptintern.storage.store import open_store
from promptintern_api.contract import PodRole

from tests.cluster.client import wait_for


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPTINTERN_POD_FOLDER", str(tmp_path))
    return tmp_path


def test_outside_pods_nobody_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMPTINTERN_POD_FOLDER", raising=False)
    assert not leaving.is_leaving()
    with leaving.register_process("driver"):
        assert leaving.pod_folder() is None


def test_a_worker_is_waited_for(folder: Path) -> None:
    done: list[bool] = []
    with leaving.register_process("worker"):
        thread = threading.Thread(target=lambda: done.append(hook.save(folder, role="worker", seconds=5)))
        thread.start()
        while not leaving.is_leaving():
            time.sleep(0.01)
        assert not done
    thread.join()
    assert done == [True]


def test_all_workers_of_a_pod_are_waited_for(folder: Path) -> None:
    """A pod with several GPUs has a worker for each of them."""
    others = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    for other in others:
        leaving.process_file(folder, "worker", other.pid).touch()
    with leaving.register_process("worker"):
        assert sorted(leaving.processes(folder, "worker")) == sorted([os.getpid(), *(other.pid for other in others)])
    for other in others:
        assert not hook.save(folder, role="worker", seconds=0.3)
        other.kill()
        other.wait()
    assert hook.save(folder, role="worker", seconds=0.3)


def test_the_wait_for_a_worker_that_does_not_end_is_limited(folder: Path) -> None:
    with leaving.register_process("worker"):
        assert not hook.save(folder, role="worker", seconds=0.3)


def test_a_pod_without_a_trainer_is_not_waited_for(folder: Path) -> None:
    began = time.monotonic()
    assert hook.save(folder, role="worker", seconds=60)
    assert hook.save(folder, role="head", seconds=60)
    assert time.monotonic() - began < 5


def test_the_driver_receives_a_signal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "_EXIT_CODE_SECONDS", 0.1)
    # The sleeps are short because a signal just before a sleep does not shorten it: Python's handler runs after it.
    script = """if True:
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(flush=True)
        for _ in range(600):
            time.sleep(0.1)
        sys.exit("no signal arrived")
    """
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    driver.stdout.readline()
    leaving.process_file(folder, "driver", driver.pid).touch()
    reaper = threading.Thread(target=driver.wait)
    reaper.start()
    assert hook.save(folder, role="head", seconds=10)
    reaper.join()
    assert driver.returncode == 0


def test_a_process_that_died_is_not_there(folder: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    leaving.process_file(folder, "worker", gone.pid).touch()
    assert leaving.processes(folder, "worker") == []
    with pytest.raises(ProcessLookupError):
        os.kill(gone.pid, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("role", "name"),
    [(PodRole.HEAD, "job-driver-x.log"), (PodRole.WORKER, "raylet.out"), (PodRole.WORKER, "worker-1-01-7.err")],
)
def test_the_end_of_a_log_is_uploaded(tmp_path: Path, role: PodRole, name: str) -> None:
    logs, store = tmp_path / "logs", open_store((tmp_path / "store").as_uri())
    logs.mkdir()
    log = logs / name
    log.write_text("first\n")
    (logs / "other.log").write_text("not wanted\n")
    stop = threading.Event()
    options = {"role": role, "logs": logs, "seconds": 0.05}
    thread = threading.Thread(target=upload_logs, args=(store, stop), kwargs=options, daemon=True)
    thread.start()
    wait_for(lambda: store.list() == [name], 30, "the first upload")
    log.write_text("first\nlast\n")
    stop.set()
    thread.join()
    assert store.read(name) == b"first\nlast\n"
    assert store.list() == [name]


def test_a_tail_begins_with_a_line(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("one\ntwo\nthree\n")
    assert tail(file, 8) == b"three\n"
    assert tail(file, 100) == b"one\ntwo\nthree\n"
