"""Servers that pytest started end with it, however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.client import wait_for
from tests.cluster.errors import NoCluster
from tests.cluster.programs import API_TIER, build
from tests.cluster.s3 import NoServer
from tests.cluster.s3 import build as build_s3
from tests.integration.cluster import holding

ROOT = Path(__file__).parents[3]
START_SECONDS = 240
END_SECONDS = 30
_WITH_DEFAULT_SIGNALS = ("env", "--default-signal=INT,HUP")
"""What undoes the ignored signals that a child inherits from nohup or from a shell's background job."""


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    """The servers' programs; a first build takes minutes."""
    try:
        build(API_TIER)
        build_s3()
    except (NoCluster, NoServer) as missing:
        pytest.skip(str(missing))
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("processes are found by their command lines in /proc, which this system does not have")


class Session:
    """A pytest in a process group of its own, whose ``workers`` share an API server and have an S3 server each."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        self._workers = workers
        parallel = ["--numprocesses", str(workers)] if workers > 1 else ["-p", "no:xdist"]
        options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(folder / "tests"), *parallel]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PROMPTINTERN_"))},
            "PROMPTINTERN_CLUSTER_HOME": str(folder / "cluster"),
            holding.FOLDER: str(folder),
        }
        with (folder / "pytest.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*_WITH_DEFAULT_SIGNALS, sys.executable, "-m", "pytest", str(holding.__file__), *options],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_servers_answer(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, (self._folder / "pytest.log").read_text()
            return len(self.pids) == self._workers

        wait_for(ready, START_SECONDS, f"{self._workers} tests to have their servers")

    @property
    def pids(self) -> list[int]:
        """The processes that run tests."""
        return [int(file.stem) for file in self._folder.glob("*.ready")]

    def servers(self) -> dict[int, str]:
        """Command lines of all processes that name a folder of this session, by pid, without pytest's own."""
        own = {self.process.pid, *self.pids}
        return {pid: line for pid, line in command_lines().items() if str(self._folder) in line and pid not in own}

    def interrupt(self, number: signal.Signals) -> None:
        """Do what a terminal does, or kill the processes of pytest, and nothing else."""
        if number is signal.SIGKILL:
            for pid in {self.process.pid, *self.pids}:
                os.kill(pid, number)
        else:
            os.killpg(self.process.pid, number)
        self.process.wait(60)


def command_lines() -> dict[int, str]:
    """The command line of every process of this machine, by pid."""
    lines = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines[int(file.parent.name)] = file.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue  # the process has just ended
    return lines


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[list[Session]]:
    """The sessions that a test starts; what they leave behind is ended by pid."""
    started: list[Session] = []
    yield started
    for session in started:
        leftovers = session.servers()
        for pid in {session.process.pid, *session.pids, *leftovers}:
            if pid in leftovers or session.process.poll() is None:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        session.process.wait(60)


@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGINT, 1), (signal.SIGTERM, 2), (signal.SIGHUP, 1), (signal.SIGKILL, 2)],
)
def test_an_interrupted_session_leaves_no_server(
    number: signal.Signals, workers: int, sessions: list[Session], tmp_path: Path
) -> None:
    session = Session(tmp_path, workers)
    sessions.append(session)
    session.wait_until_servers_answer()
    lines = " ".join(session.servers().values())
    assert all(program in lines for program in ("etcd", "kube-apiserver", "versitygw")), lines
    session.interrupt(number)
    cluster = tmp_path / "cluster" / "api"
    deadline = time.monotonic() + END_SECONDS
    while (session.servers() or cluster.exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert session.servers() == {}
    assert not cluster.exists(), "the next session would find what is left of this one"
