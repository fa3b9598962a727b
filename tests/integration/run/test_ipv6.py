"""A network with IPv6 alone: two workers in a Ray cluster, as in the pods of a job, and the addresses of its probes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.namespaces import Namespace
from tests.integration.run.process import adapters, write_job
from tests.integration.run.ray_cluster import ENVIRONMENT, started_head

ADDRESS = "fd00:9::1"
HEAD = f"http://[{ADDRESS}]:8265/api/version"
PROBES = ("http://localhost:52365/api/local_raylet_healthz", "http://[::1]:8265/api/gcs_healthz")
"""What the readiness probe of a head pod asks."""


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
    """A Ray cluster with the addresses of a head pod in a cluster with IPv6 alone, once its probes answer."""
    options = ["--port", "6379", "--num-cpus", "2", "--dashboard-host", "::"]
    with started_head(options, within=network.command()):
        until = time.monotonic() + 180
        while silent := [url for url in (*PROBES, HEAD) if not answers(network, url)]:
            assert time.monotonic() < until, silent
            time.sleep(0.5)
        yield


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
