"""A guard ends processes and carries out requests when its starter ends, even if the starter is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.processes import start_time

ROOT = Path(__file__).parents[3]
STARTER = """
import os, subprocess, sys, time
from tests.cluster import guard
started = guard.start([sys.executable, "-c", "import sys, time; assert not sys.stdin.read(); time.sleep(60)"])
forked = os.fork()  # it must not keep the pipe to the guard open
if not forked:
    time.sleep(60)
guard.kill_at_exit(forked)
guard.call_at_exit(os.rmdir, sys.argv[1] + "/missing")  # a request that fails does not stop those after it
guard.call_at_exit(os.mkdir, sys.argv[1])
print(started.pid, forked, flush=True)
sys.stdin.read()
"""


def starter(folder: Path) -> "tuple[subprocess.Popen[str], list[int]]":
    command = [sys.executable, "-c", STARTER, str(folder)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder.parent)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


def wait_until_ended(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(start_time(pid) for pid in pids):
        assert time.monotonic() < deadline, f"some of {pids} still run"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGKILL])
def test_everything_that_a_process_started_ends_with_it(number: signal.Signals | None, tmp_path: Path) -> None:
    called = tmp_path / "called"
    process, pids = starter(called)
    assert all(start_time(pid) for pid in pids)
    if number is None:
        process.communicate("")
    else:
        process.send_signal(number)
        process.wait()
    wait_until_ended(pids)
    assert process.returncode == (0 if number is None else -number)
    assert called.is_dir()
    assert "called/missing" in (tmp_path / "promptintern" / "guard.log").read_text()
