"""Tier ``api``: a real kube-apiserver with a real etcd on loopback, which starts in seconds and needs no root.

There is no controller, scheduler or node: a deleted namespace stays, owner references have no effect, and pods stay
Pending.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster import guard
from tests.cluster.client import Client, Manifest
from tests.cluster.control_plane import ControlPlane, free_port


class ApiServer(Client):
    """The API server with its files in ``home``, started by this process or by another."""

    def __init__(self, home: Path, control_plane: ControlPlane | None = None) -> None:
        self.home = home
        self.control_plane = control_plane or ControlPlane(
            home, address="127.0.0.1", port=_port(home), service_range="10.96.0.0/16"
        )
        self.processes = self.control_plane.processes
        super().__init__(self.control_plane.kubeconfig)

    @property
    def url(self) -> str:
        return self.control_plane.url

    def require(self) -> None:
        """Raise ``NoCluster`` if this machine cannot run the cluster; this tier runs everywhere."""

    def up(self) -> None:
        """Start etcd and the API server, and wait until they are ready."""
        self.control_plane.start(
            "--endpoint-reconciler-type=none",  # the reconciler refuses to announce a loopback address
            "--disable-admission-plugins=ServiceAccount",  # it waits for a controller that is not here
        )

    def down(self) -> None:
        """End all processes and remove ``home``."""
        for name in ("kube-apiserver", "etcd"):
            self.processes.kill(name)
        shutil.rmtree(self.home, ignore_errors=True)

    def healthy(self) -> bool:
        """Whether etcd runs and the API server is ready."""
        return self.processes.alive("etcd") and self.control_plane.healthy()

    def __enter__(self) -> Self:
        """Start a server for one test alone: ``with ApiServer(tmp_path / "api") as server``."""
        guard.call_at_exit(remove_api_server, str(self.home))
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def stop_api_server(self) -> None:
        """Stop the API server: connections break, and its port is closed until ``start_api_server``."""
        self.processes.stop("kube-apiserver", seconds=5)

    def start_api_server(self) -> None:
        """Start the API server again after ``stop_api_server``, and wait until it is ready."""
        self.control_plane.start_api_server()

    def pause_api_server(self) -> None:
        """Pause the API server: it keeps its connections and answers nothing."""
        self.processes.pause("kube-apiserver")

    def resume_api_server(self) -> None:
        """Resume the API server after ``pause_api_server``."""
        self.processes.resume("kube-apiserver")

    def kubeconfig_for(self, user: str, groups: Sequence[str] = (), *, file: Path | None = None) -> Path:
        """Write a kubeconfig for another user with a certificate of its own. RBAC decides what that user may do."""
        file = file or self.home / "users" / user.replace("/", "_").replace(":", "_")
        return self.control_plane.write_kubeconfig(file, user=user, groups=groups)

    def server(self) -> Manifest:
        """The cluster's entry of a kubeconfig: the API server's URL and authority."""
        return self.control_plane.entry()


def remove_api_server(home: str) -> None:
    """End the server below ``home`` and remove it; do nothing if there is none."""
    if Path(home).exists():
        ApiServer(Path(home)).down()


def _port(home: Path) -> int:
    """The server's port, kept in a file so that every process finds the same server."""
    file = home / "port"
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        file.write_text(str(free_port()))
    return int(file.read_text())
