"""Processes that outlive the command that starts them, identified by pid and start time.

A pid alone may belong to another process by the time it is signalled. Because the start time is compared as well, only
processes that were started here are ever signalled.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.paths import search_path

_POLL_SECONDS = 0.05


def start_time(pid: int) -> str | None:
    """The start time of a process in the system's own format; None if it has ended, even if it was not reaped yet."""
    if not Path("/proc/self/stat").exists():
        ps = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        output = subprocess.run(ps, capture_output=True, text=True, check=False).stdout
        state, _, started = output.strip().partition(" ")
        return started.strip() if started and not state.startswith("Z") else None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


class Processes:
    """The processes of one cluster, each with a record in ``folder``, so that later commands find them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start a process, or do nothing if it runs. Its output is appended to ``<name>.log``."""
        if self.alive(name):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        record: dict[str, Any] = {"argv": list(argv), "env": dict(env or {}), "pid": None, "started": None}
        self._write(name, record)
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                argv,
                cwd="/",
                env={"PATH": search_path(), "HOME": os.environ.get("HOME", "/"), **record["env"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process.returncode = 0  # it outlives this process, which therefore never waits for it
        self._write(name, record | {"pid": process.pid, "started": start_time(process.pid)})

    def restart(self, name: str) -> None:
        """Start a process again with its previous command line and environment."""
        record = self._record(name)
        assert record is not None, f"{name} was never started"
        self.start(name, record["argv"], record["env"])

    def stop(self, name: str, *, seconds: float = 10) -> None:
        """End a process by SIGTERM, and by SIGKILL after ``seconds``."""
        pid = self.pid(name)
        if pid is None:
            return
        self._signal(name, signal.SIGCONT)
        self._signal(name, signal.SIGTERM)
        if not self._wait_until_ended(name, pid, seconds):
            self.kill(name)

    def kill(self, name: str) -> None:
        """End a process by SIGKILL, as a power failure would."""
        pid = self.pid(name)
        if pid is not None:
            self._signal(name, signal.SIGKILL)
            if not self._wait_until_ended(name, pid, 10):
                raise RuntimeError(f"{name} (pid {pid}) does not end, not even after SIGKILL")

    def pause(self, name: str) -> None:
        """Pause a process: it keeps its connections and answers nothing."""
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Resume a process after ``pause``."""
        self._signal(name, signal.SIGCONT)

    def alive(self, name: str) -> bool:
        """Whether the process of this name runs."""
        return self.pid(name) is not None

    def pid(self, name: str) -> int | None:
        """The pid of a process, or None if it does not run."""
        record = self._record(name)
        if record is None:
            return None
        if record["pid"] is None:  # its starter was killed before it could record the pid
            return _find(record["argv"])
        _reap(record["pid"])
        return int(record["pid"]) if start_time(record["pid"]) == record["started"] else None

    def names(self) -> list[str]:
        """The names of all processes that were started, running or not."""
        return sorted(path.stem for path in self.folder.glob("[!.]*.json"))

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self.folder / f"{name}.log"

    def tail(self, name: str) -> str:
        """The end of a process's output, for error messages."""
        log = self.log(name)
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        except FileNotFoundError:
            return None
        return record

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        unfinished = self.folder / f".{name}.json"
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(record))
        unfinished.replace(self.folder / f"{name}.json")

    def _signal(self, name: str, number: signal.Signals) -> None:
        pid = self.pid(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait_until_ended(self, name: str, pid: int, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.pid(name) == pid:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def _reap(pid: int) -> None:
    """Reap the process if it is a child of this one, so that it does not stay a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _find(argv: Sequence[str]) -> int | None:
    """Find a process by its command line, which names files of the cluster and is therefore unique."""
    command_line = "\0".join([*argv, ""]).encode()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process has just ended
            if file.read_bytes() == command_line:
                return int(file.parent.name)
    return None
