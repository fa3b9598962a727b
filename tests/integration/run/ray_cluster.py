"""A Ray cluster on this machine that is not the driver's own, as in the pods of a job."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray

from tests.cluster import guard
from tests.cluster.control_plane import free_port

ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A busy machine may need longer than Ray's 15 s to start the agent.
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_raylet_start_wait_time_s": "180",
}
"""The environment of a cluster and of its drivers, besides the address of the cluster."""


@contextmanager
def ray_cluster(cpus: int) -> Iterator[dict[str, str]]:
    """Run a Ray cluster with ``cpus`` CPUs, and provide the environment of its drivers.

    Raises:
        TimeoutError: if it is not up within three minutes, with its log.
    """
    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    host, _, port = address.rpartition(":")
    environment = {"RAY_ADDRESS": address, **ENVIRONMENT}
    options = ["--include-dashboard=false", "--node-ip-address", host, "--port", port, "--num-cpus", str(cpus)]
    with started_head(options, environment=environment):
        yield environment


@contextmanager
def started_head(
    options: Sequence[str], *, environment: Mapping[str, str] = ENVIRONMENT, within: Sequence[str] = ()
) -> Iterator[None]:
    """Run `ray start --head` with ``options``, after the words ``within``, which may enter a network namespace.

    Raises:
        TimeoutError: if it is not up within three minutes, with its log.
    """
    command = [*within, str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", *options]
    # The path must be short, because the paths of Unix sockets may have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        log = Path(folder, "start.log")
        with log.open("wb") as output:
            process = guard.start(
                [*command, "--temp-dir", folder],
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            _wait_until_up(process, log)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_up(process: "subprocess.Popen[bytes]", log: Path, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while "Ray runtime started" not in (text := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > until:
            raise TimeoutError(f"the Ray cluster is not up:\n{text[-2000:]}")
        time.sleep(0.2)
