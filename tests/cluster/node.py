"""One node on this machine: kubelet, kube-proxy and CoreDNS as processes, and containerd for the containers."""

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from tests.cluster import network
from tests.cluster.containers import Containers
from tests.cluster.control_plane import ControlPlane, free_port
from tests.cluster.programs import program

NAME = "promptintern-node"
_CGROUP = "promptintern"
_CGROUPS = Path("/sys/fs/cgroup")
_FIXED_FOLDERS = (
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/containers",
    "/usr/libexec/kubernetes",
    "/run/containerd",
)
"""Folders that the programs create at fixed paths. Those that did not exist before are removed."""


class Node:
    """The node's programs, with their files in the cluster's ``home``."""

    def __init__(self, control_plane: ControlPlane, containers: Containers) -> None:
        self.control_plane = control_plane
        self.containers = containers
        self.home = control_plane.home
        self.processes = control_plane.processes

    def start(self) -> None:
        """Start all programs; the node is ready some seconds later."""
        existing = [path for path in _FIXED_FOLDERS if Path(path).exists()]
        (self.home / "folders.json").write_text(json.dumps(existing))
        _make_cgroups()
        self.start_kubelet()
        self._start_proxy()
        self._start_dns()

    def start_kubelet(self) -> None:
        """Start the kubelet, at first or after a stop, during which its pods continue to run."""
        user, groups = f"system:node:{NAME}", ["system:nodes"]
        kubeconfig = self.control_plane.write_kubeconfig(self.home / "kubelet.kubeconfig", user=user, groups=groups)
        config = self._write("kubelet.json", self._kubelet())
        flags = [f"--config={config}", f"--kubeconfig={kubeconfig}", f"--root-dir={self.home / 'kubelet'}"]
        flags += [f"--cert-dir={self.home / 'kubelet-keys'}", f"--hostname-override={NAME}"]
        flags += [f"--node-ip={network.ADDRESS}"]
        self.processes.start("kubelet", [str(program("kubelet")), *flags])

    def stop(self) -> None:
        """End the node's programs; ``Containers`` ends the containers."""
        for name in ("kube-proxy", "coredns", "kubelet"):
            self.processes.stop(name, seconds=5)

    def remove(self) -> None:
        """Remove what the programs left, after the containers have ended; do nothing if the node never started."""
        _unmount_below(self.home)
        existing = self.home / "folders.json"
        if not existing.exists():
            return
        _remove_cgroups()
        logs = Path("/var/log/containers")
        for link in logs.glob("*") if logs.exists() else ():
            if link.is_symlink() and str(self.home) in str(link.readlink()):
                link.unlink()
        for folder in set(_FIXED_FOLDERS) - set(json.loads(existing.read_text())):
            shutil.rmtree(folder, ignore_errors=True)

    def _kubelet(self) -> dict[str, Any]:
        return {
            **{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"},
            **{"address": network.ADDRESS, "healthzPort": 0},
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.control_plane.authority.own.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{self.containers.socket}",
            **{"cgroupDriver": "cgroupfs", "cgroupRoot": f"/{_CGROUP}", "enforceNodeAllocatable": []},
            **{"failSwapOn": False, "oomScoreAdj": 0, "maxPods": 200},
            **{"clusterDNS": [network.ADDRESS], "clusterDomain": "cluster.local", "resolvConf": ""},
            # The disk and its images belong to the machine's user, so the kubelet must neither evict nor delete.
            "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            **{"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99},
            "podLogsDir": str(self.home / "logs"),
            "volumePluginDir": str(self.home / "volume-plugins"),
            **{"syncFrequency": "10s", "registryPullQPS": 0, "eventRecordQPS": 0},
        }

    def _start_proxy(self) -> None:
        kubeconfig = self.control_plane.write_kubeconfig(self.home / "kube-proxy.kubeconfig", user="system:kube-proxy")
        config = {
            **{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"},
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            **{"mode": "iptables", "clusterCIDR": network.PODS, "hostnameOverride": NAME},
            **{"bindAddress": network.ADDRESS, "healthzBindAddress": "", "nodePortAddresses": ["primary"]},
            "metricsBindAddress": f"127.0.0.1:{free_port()}",
            # kube-proxy must not change the machine's connection tracking.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            # Pods share a bridge: without this, responses would go straight to the pod and skip address translation.
            "iptables": {"masqueradeAll": True, "localhostNodePorts": False},
        }
        argv = [str(program("kube-proxy")), f"--config={self._write('kube-proxy.json', config)}"]
        self.processes.start("kube-proxy", argv)

    def _start_dns(self) -> None:
        corefile = self.home / "Corefile"
        corefile.write_text(f""".:53 {{
    bind {network.ADDRESS}
    errors
    health 127.0.0.1:{free_port()}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {self.control_plane.kubeconfig}
        ttl 5
    }}
    cache 5
}}
""")
        self.processes.start("coredns", [str(program("coredns")), "-conf", str(corefile)])

    def _write(self, name: str, config: dict[str, Any]) -> Path:
        file = self.home / name
        file.write_text(json.dumps(config, indent=1))
        return file


def _hierarchies() -> list[Path]:
    """The cgroup hierarchies: one for each controller (v1), or one for all (v2)."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [folder for folder in sorted(_CGROUPS.glob("*")) if (folder / "cgroup.procs").exists()]


def _make_cgroups() -> None:
    for hierarchy in _hierarchies():
        group = hierarchy / _CGROUP
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # v1 creates them empty, and then accepts no process
            if (group / name).exists() and (hierarchy / name).exists():
                (group / name).write_text((hierarchy / name).read_text())


def _remove_cgroups() -> None:
    """Remove the cgroups, and kill the processes in them, which all belong to this cluster's containers."""
    for hierarchy in _hierarchies():
        group = hierarchy / _CGROUP
        deadline = time.monotonic() + 5
        while group.exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(group, topdown=False):
                for pid in _members(Path(folder)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()


def _members(group: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    return []


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed(mounts):
        if Path(mount.replace("\\040", " ")).is_relative_to(folder):
            network.run("umount", "--lazy", mount.replace("\\040", " "), check=False)
