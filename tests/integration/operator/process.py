"""The operator as a local process."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster import guard
from tests.cluster.client import wait_for
from tests.cluster.control_plane import free_port
from tests.integration.operator.chart import Release

PROGRAM = (str(Path(sys.executable).with_name("promptintern-operator")),)


class Operator:
    """One replica, which can be started again after it ended."""

    def __init__(
        self,
        release: Release,
        folder: Path,
        name: str = "operator-0",
        program: Sequence[str] = PROGRAM,
        **settings: object,
    ) -> None:
        """``settings`` are fields of the operator's settings that differ from the chart's."""
        self._program = list(program)
        self.name = name
        self.log_file = folder / f"{name}.log"
        self._probes, self._metrics = free_port(), free_port()
        changed = {f"PROMPTINTERN_{key.upper()}": str(value) for key, value in settings.items()}
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "PYTHONMALLOC": "malloc",  # as the image sets it
            "KUBECONFIG": str(release.kubeconfig),
            **release.environment,
            "PROMPTINTERN_POD_NAME": name,
            "PROMPTINTERN_PROBE_PORT": str(self._probes),
            "PROMPTINTERN_METRICS_PORT": str(self._metrics),
            **changed,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without waiting until it leads."""
        assert not self.alive
        with self.log_file.open("ab") as log:
            self._process = guard.start(self._program, env=self._environment, stdout=log, stderr=log, cwd="/")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was never started"
        return self._process

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        if self.alive:
            self.process.kill()
        if self._process is not None:
            self._process.wait(10)

    def stop(self, seconds: float = 20) -> int:
        """Terminate it and return its exit status."""
        self.process.terminate()
        return self.process.wait(seconds)

    # Its output

    def probe(self, path: str = "/healthz") -> int:
        """Return the HTTP status of a probe, or 0 without a response."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._probes}{path}", timeout=2) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Return every sample, by name and label values; empty without a response."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        families = text_string_to_metric_families(text)
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}

    def total(self, name: str) -> float:
        """Return the sum of a series over its labels."""
        return sum(value for key, value in self.metrics().items() if key[0] == name)

    @property
    def leads(self) -> bool:
        return self.alive and self.total("promptintern_leader") == 1

    def wait_until_leading(self, seconds: float = 30) -> None:
        """Wait until it leads.

        Raises:
            TimeoutError: if it does not, with the end of its log.
        """
        try:
            wait_for(lambda: self.leads, seconds, f"{self.name} to lead")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.text()[-3000:]}") from None

    def text(self) -> str:
        """Return all of its output so far."""
        return self.log_file.read_text(errors="replace")

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines with the event ``event``."""
        lines = [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    # Its resource usage

    @property
    def rss_mib(self) -> float:
        """The resident set size in MiB."""
        return memory_mib(self.process.pid, "VmRSS")

    @property
    def peak_mib(self) -> float:
        """The largest resident set size so far in MiB."""
        return memory_mib(self.process.pid, "VmHWM")

    @property
    def cpu_seconds(self) -> float:
        """The CPU time so far, in seconds."""
        return cpu_seconds(self.process.pid)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int, field: str) -> float:
    """Return a field of ``/proc/PID/status``, such as VmRSS, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) / 1024
