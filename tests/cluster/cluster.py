"""Tier ``node``: a whole Kubernetes with KubeRay and an S3 server; on request, with Kueue or a policy engine."""

import os
import shutil
import sys
import time
from pathlib import Path

from tests.cluster import kuberay, kueue, network, packages, policy_engine, programs
from tests.cluster.api_server import ApiServer
from tests.cluster.containers import PAUSE_IMAGE, Containers
from tests.cluster.control_plane import ControlPlane, free_port
from tests.cluster.errors import CommandFailed, NoCluster
from tests.cluster.images import build_static_image
from tests.cluster.node import NAME, Node
from tests.cluster.nodes import Nodes
from tests.cluster.object_store import ObjectStore
from tests.cluster.paths import search_path
from tests.cluster.programs import Echo, program

_API_PORT = 6443
_POLICY_ENGINE = "policy-engine"
_S3_PORT = 7070
_SOCKET_LIMIT = 100
"""Maximum length of a socket's path. Linux takes 107 bytes, and some programs append to the path."""
_RUNNING = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet")


_CAPABILITIES = {"CAP_NET_ADMIN (networks)": 12, "CAP_SYS_ADMIN (mounts)": 21}
_CGROUPS = Path("/sys/fs/cgroup")


def missing_capabilities() -> list[str]:
    """What this process lacks to run a kubelet and its containers. Root in a CI container may lack capabilities."""
    if sys.platform != "linux":
        return ["Linux"]
    if os.geteuid() != 0:
        return ["root"]
    effective = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    missing = lacking_capabilities(effective)
    if not os.access(_CGROUPS, os.W_OK):
        missing.append(f"write access to {_CGROUPS} (limits)")
    return missing


def lacking_capabilities(effective: int) -> list[str]:
    """The capabilities that a node needs and the kernel's bit set ``effective`` does not contain."""
    return [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]


class Cluster(Nodes, ApiServer):
    """The cluster with its files in ``home``, started by this process or by another."""

    def __init__(self, home: Path, echo: Echo = programs.echo) -> None:
        control_plane = ControlPlane(home, address=network.ADDRESS, port=_API_PORT, service_range=network.SERVICES)
        super().__init__(home, control_plane)
        self.echo = echo
        self.containers = Containers(home, self.processes)
        self.node = Node(control_plane, self.containers)
        self.s3 = ObjectStore(home / "s3", self.processes, address=network.ADDRESS, port=_S3_PORT)

    def require(self) -> None:
        """Raise ``NoCluster`` if this machine cannot run a node, before anything is built."""
        missing = missing_capabilities()
        if missing:
            raise NoCluster(
                f"no Kubernetes node: this process has no {', no '.join(missing)}; run as root on a Linux machine that "
                "allows containers, or set PROMPTINTERN_TEST_KUBECONFIG, or install kind"
            )
        if len(str(self.containers.socket)) > _SOCKET_LIMIT:
            raise NoCluster(f"no Kubernetes node: {self.home} is too long for a socket; set PROMPTINTERN_CLUSTER_HOME")

    def up(self) -> None:
        """Start the whole cluster, and wait until the node and KubeRay are ready."""
        packages.install(packages.NODE, self.echo)
        self.home.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        network.up(self.home)
        self.control_plane.start(f"--advertise-address={network.ADDRESS}")
        self._start_controllers()
        self.containers.start()
        self.load_image(build_static_image(PAUSE_IMAGE, "pause", "/pause"), PAUSE_IMAGE)
        self.node.start()
        self.s3.start()
        self.wait_for(self.node_ready, 180, f"node {NAME}; its kubelet's log: {self.processes.log('kubelet')}")
        self.wait_for(lambda: self.get("serviceaccount", "default", "default"), 120, "the default ServiceAccount")
        self.echo(f"the node was ready after {time.monotonic() - began:.0f} s")
        self.load_image(build_static_image(kuberay.IMAGE, "kuberay-operator", kuberay.ENTRYPOINT), kuberay.IMAGE)
        kuberay.install(self)
        self.echo(f"KubeRay was ready after {time.monotonic() - began:.0f} s")

    def down(self) -> None:
        """End the whole cluster and restore the machine's settings; images stay in the cache."""
        self.processes.stop(_POLICY_ENGINE)
        self.s3.kill()
        self.node.stop()
        for name in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            self.processes.kill(name)
        if shutil.which("containerd", path=search_path()):
            self.containers.stop()
        for name in self.processes.names():
            self.processes.kill(name)
        self.node.remove()
        network.down(self.home)
        shutil.rmtree(self.home, ignore_errors=True)

    def healthy(self) -> bool:
        """Whether all processes run, the API server answers and the node is ready."""
        running = all(self.processes.alive(name) for name in _RUNNING)
        try:
            return running and self.control_plane.healthy() and self.node_ready()
        except CommandFailed:
            return False

    def load_image(self, layout: Path, tag: str) -> None:
        """Load an image that was built here into the node under ``tag``; do nothing if it is loaded already."""
        began = time.monotonic()
        if self.containers.load(layout, tag):
            self.echo(f"loaded the image {tag} in {time.monotonic() - began:.0f} s")

    def start_kueue(self) -> None:
        """Install Kueue, which manages RayJobs with a queue's label; most tests need none."""
        self.load_image(build_static_image(kueue.IMAGE, "kueue", kueue.ENTRYPOINT), kueue.IMAGE)
        kueue.install(self)

    def stop_kueue(self) -> None:
        """Remove Kueue with all its queues and Workloads; no test may still use them."""
        kueue.remove(self)

    def start_policy_engine(self) -> None:
        """Enforce NetworkPolicies, which nothing else does in this cluster: for IPv4, between pods, and to the node."""
        self.processes.start(_POLICY_ENGINE, policy_engine.command(self.kubeconfig, NAME))
        network.judge_connections()

    def stop_policy_engine(self) -> None:
        """Enforce no NetworkPolicies any more."""
        network.stop_judging_connections()
        self.processes.stop(_POLICY_ENGINE)

    def _start_controllers(self) -> None:
        manager = self._component("kube-controller-manager")
        keys = self.control_plane.authority
        manager += [
            f"--root-ca-file={keys.own.certificate}",
            f"--service-account-private-key-file={keys.signing_key('service-account')}",
            "--use-service-account-credentials=true",
            *(f"--service-cluster-ip-range={network.SERVICES}", "--allocate-node-cidrs=false"),
        ]
        self.processes.start("kube-controller-manager", manager)
        self.processes.start("kube-scheduler", self._component("kube-scheduler"))

    def _component(self, name: str) -> list[str]:
        file = self.control_plane.write_kubeconfig(self.home / f"{name}.kubeconfig", user=f"system:{name}")
        files = [f"--kubeconfig={file}", f"--authentication-kubeconfig={file}", f"--authorization-kubeconfig={file}"]
        listen = ["--bind-address=127.0.0.1", f"--secure-port={free_port()}", "--leader-elect=false"]
        return [str(program(name)), *files, *listen]
