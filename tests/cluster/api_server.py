"""Tier ``api``: a real kube-apiserver over a real etcd on loopback, without root, in seconds.

Nothing acts on what is written: no controller, no scheduler, no node. A namespace that is deleted stays, owner
references are not followed, and a pod stays Pending.
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
    """The API server below ``home``, whether this process started it or another."""

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
        """Raise ``NoCluster`` where it cannot run; this tier runs everywhere."""

    def up(self) -> None:
        """Start it, and wait until it is ready."""
        self.control_plane.start(
            "--endpoint-reconciler-type=none",  # it would refuse to announce a loopback address
            "--disable-admission-plugins=ServiceAccount",  # it waits for a controller that makes ServiceAccounts
        )

    def down(self) -> None:
        """End it and remove all of it."""
        for name in ("kube-apiserver", "etcd"):
            self.processes.kill(name)
        shutil.rmtree(self.home, ignore_errors=True)

    def healthy(self) -> bool:
        """Whether all of it runs and answers."""
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
        """Connections break and nobody listens on its port until ``start_api_server``."""
        self.processes.stop("kube-apiserver", seconds=5)

    def start_api_server(self) -> None:
        """After ``stop_api_server``; returns when it is ready."""
        self.control_plane.start_api_server()

    def pause_api_server(self) -> None:
        """It keeps its connections and answers nothing."""
        self.processes.pause("kube-apiserver")

    def resume_api_server(self) -> None:
        """After ``pause_api_server``."""
        self.processes.resume("kube-apiserver")

    def kubeconfig_for(self, user: str, groups: Sequence[str] = (), *, file: Path | None = None) -> Path:
        """A kubeconfig of another user, with a certificate signed for it. Without RBAC for it, it may do nothing."""
        file = file or self.home / "users" / user.replace("/", "_").replace(":", "_")
        return self.control_plane.write_kubeconfig(file, user=user, groups=groups)

    def server(self) -> Manifest:
        """The API server's URL and authority, as a kubeconfig names them."""
        return self.control_plane.entry()


def remove_api_server(home: str) -> None:
    """End the server below ``home`` and remove it; do nothing if there is none."""
    if Path(home).exists():
        ApiServer(Path(home)).down()


def _port(home: Path) -> int:
    """The port chosen when this home was made, so that every process finds the same server."""
    file = home / "port"
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        file.write_text(str(free_port()))
    return int(file.read_text())
