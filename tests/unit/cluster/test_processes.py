"""Processes are identified by pid and start time, and no other process is ever signalled."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.cluster.client import wait_for
from tests.cluster.processes import Processes, start_time

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


def test_a_process_is_found_by_a_later_command_and_ended(tmp_path: Path) -> None:
    Processes(tmp_path).start("sleep", SLEEP)
    later = Processes(tmp_path)
    assert later.alive("sleep")
    later.stop("sleep")
    assert not later.alive("sleep")
    later.restart("sleep")
    assert later.alive("sleep")
    later.kill("sleep")
    assert later.names() == ["sleep"]
    assert not later.alive("sleep")


def test_starting_a_running_process_does_nothing(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("sleep", SLEEP)
    pid = processes.pid("sleep")
    processes.start("sleep", SLEEP)
    assert processes.pid("sleep") == pid
    processes.kill("sleep")


def test_a_paused_process_can_be_stopped(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("sleep", SLEEP)
    processes.pause("sleep")
    processes.stop("sleep", seconds=5)
    assert not processes.alive("sleep")


def test_another_process_with_the_same_pid_is_not_signalled(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL)
    record = {"argv": [], "env": {}, "pid": stranger.pid, "started": "0"}
    (tmp_path / "theirs.json").write_text(json.dumps(record))
    processes = Processes(tmp_path)
    processes.kill("theirs")
    processes.stop("theirs")
    assert start_time(stranger.pid) is not None
    stranger.kill()
    stranger.wait()


def test_a_process_whose_starter_was_killed_is_found_by_its_command_line(tmp_path: Path) -> None:
    argv = [*SLEEP, str(tmp_path)]
    orphan = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    (tmp_path / "orphan.json").write_text(json.dumps({"argv": argv, "env": {}, "pid": None, "started": None}))
    (tmp_path / "never.json").write_text(json.dumps({"argv": [*argv, "x"], "env": {}, "pid": None, "started": None}))
    processes = Processes(tmp_path)
    assert processes.pid("never") is None
    # The command line of a process may be empty for a moment after Popen has returned.
    assert wait_for(lambda: processes.pid("orphan"), 10, "the command line") == orphan.pid
    processes.kill("orphan")
    assert orphan.wait() == -signal.SIGKILL


def test_a_process_that_has_ended_has_no_start_time() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert start_time(ended.pid) is None
    assert start_time(os.getpid()) is not None
