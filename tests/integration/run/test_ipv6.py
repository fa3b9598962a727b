"""A network with IPv6 alone: two workers in a Ray cluster, as in the pods of a job, and the addresses of its probes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import guard
from tests.cluster.namespaces import Namespace
from tests.integration.run.process import adapters, write_job

ADDRESS = "fd00:9::1"
HEAD = f"http://[{ADDRESS}]:8265/api/version"
PROBES = ("http://localhost:52365/api/local_raylet_healthz", "http://[::1]:8265/api/gcs_healthz")
"""What the readiness probe of a head pod asks."""
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A busy machine may need longer than Ray's 15 s to start the agent.
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_raylet_start_wait_time_s": "180",
}


@pytest.fixture
def network() -> Iterator[Namespace]:
    """A host with no IPv4 address but the loopback's."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a network namespace needs Linux and root")
    network = Namespace()
    network.ip(
        "link add eth0 type veth peer name eth1",
        "link set eth0 up",
        "link set eth1 up",
        f"addr add {ADDRESS}/64 dev eth0 nodad",
        "route add ::/0 dev eth0",
    )
    yield network
    network.close()


@pytest.fixture
def head(network: Namespace) -> Iterator[None]:
    """A Ray cluster with the addresses of a head pod in a cluster with IPv6 alone."""
    ray = str(Path(sys.executable).with_name("ray"))
    options = ["--port", "6379", "--num-cpus", "2", "--dashboard-host", "::", "--block"]
    # The path must be short, because the paths of Unix sockets may have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        log = Path(folder, "start.log")
        with log.open("wb") as output:
            process = guard.start(
                network.command(ray, "start", "--head", *options, "--temp-dir", folder),
                env={**os.environ, **ENVIRONMENT},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            until = time.monotonic() + 180
            while not all(answers(network, url) for url in (*PROBES, HEAD)):
                assert process.poll() is None and time.monotonic() < until, log.read_text(errors="replace")[-2000:]
                time.sleep(0.5)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(network: Namespace, url: str) -> bool:
    asks = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5).read()"
    command = network.command(sys.executable, "-c", asks, url)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.usefixtures("head")
def test_two_workers_train_in_a_cluster_that_the_probes_call_ready(network: Namespace, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("promptintern")), "run", str(write_job(tmp_path, epochs=2))]
    ended = subprocess.run(
        network.command(*command, "--workers", "2", "--workdir", str(tmp_path / "runs")),
        env={**os.environ, **ENVIRONMENT, "RAY_ADDRESS": f"[{ADDRESS}]:6379"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    assert adapters(tmp_path / "runs")
