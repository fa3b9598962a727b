"""containerd with separate folders and a separate socket, so that the machine's own container engine is not touched."""

import contextlib
import json
import subprocess
import time
from pathlib import Path

from tests.cluster import network, oci
from tests.cluster.client import wait_for
from tests.cluster.errors import CommandFailed
from tests.cluster.paths import cache
from tests.cluster.processes import Processes

PAUSE_IMAGE = "localhost/pause:1"
_NAMESPACE = "k8s.io"
_START_SECONDS = 90
_IMPORTS = 3


class Containers:
    """The container engine of one cluster. Images stay in the cache when the cluster ends, because loading is slow."""

    def __init__(self, home: Path, processes: Processes) -> None:
        self.home = home
        self.processes = processes
        self.socket = home / "containerd.sock"
        self.images = cache() / "containerd"

    def start(self) -> None:
        """Start the engine, and remove the containers of earlier runs."""
        (self.home / "cni").mkdir(parents=True, exist_ok=True)
        (self.home / "cni" / "10-bridge.conflist").write_text(json.dumps(self._cni()))
        config = self.home / "containerd.toml"
        config.write_text(self._config())
        self.processes.start("containerd", ["containerd", "--config", str(config), "--log-level", "warn"])
        what = f"containerd; its log: {self.processes.log('containerd')}"
        wait_for(lambda: "Server:" in self.ctr("version"), _START_SECONDS, what)
        self.remove_containers()

    def stop(self) -> None:
        """End all containers, then the engine."""
        if self.processes.alive("containerd"):
            self.remove_containers()
        self.processes.stop("containerd")
        for pid in self._shims():
            network.run("kill", "-KILL", str(pid), check=False)

    def remove_containers(self) -> None:
        """End and remove every container, in whatever state it is."""
        for task in self.ctr("tasks", "ls", "-q").split():
            self.ctr("tasks", "kill", "--all", "--signal", "SIGKILL", task, check=False)
        for task in self.ctr("tasks", "ls", "-q").split():
            self._remove(task)
        containers = self.ctr("containers", "ls", "-q").split()
        if containers:
            self.ctr("containers", "rm", *containers, check=False)

    def ctr(self, *arguments: str, check: bool = True) -> str:
        """Run containerd's command-line program in Kubernetes' namespace, and return its standard output."""
        argv = ["ctr", "--address", str(self.socket), "--namespace", _NAMESPACE, *arguments]
        completed = subprocess.run(argv, capture_output=True, text=True, check=False)
        if check and completed.returncode != 0:
            raise CommandFailed(argv, completed.returncode, completed.stderr)
        return completed.stdout

    def load(self, layout: Path, tag: str) -> bool:
        """Load an image under ``tag``; return False if it was loaded already."""
        if oci.manifest_entry(layout)["digest"] in self.ctr("images", "ls", f"name=={tag}"):
            return False
        # containerd may delete a layer of the tag's previous image while the new one is being built on it.
        for attempt in range(1, _IMPORTS + 1):
            try:
                self._import(layout, tag)
                break
            except CommandFailed:
                self.ctr("images", "rm", tag, check=False)  # otherwise the image would count as loaded
                if attempt == _IMPORTS:
                    raise
        return True

    def _import(self, layout: Path, tag: str) -> None:
        present = set(self.ctr("content", "ls", "-q").split())
        argv = ["ctr", "--address", str(self.socket), "--namespace", _NAMESPACE, "images", "import", "-"]
        importing = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert importing.stdin is not None and importing.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the output of ctr explains the failure
            oci.write_archive(layout, tag, present, importing.stdin)
            importing.stdin.close()
        output = importing.stdout.read().decode()
        if importing.wait() != 0:
            raise CommandFailed(argv, importing.returncode, output)
        self._forget_replaced_images()
        oci.share_blobs(layout, self.images / "io.containerd.content.v1.content")

    def _forget_replaced_images(self) -> None:
        """Remove images without a tag: the engine also names images by digest, and so keeps replaced ones."""
        rows = [line.split() for line in self.ctr("images", "ls").splitlines()[1:]]
        tagged = {row[2] for row in rows if not row[0].startswith("sha256:")}
        replaced = [row[0] for row in rows if row[2] not in tagged]
        if replaced:
            self.ctr("images", "rm", *replaced, check=False)

    def _remove(self, task: str) -> None:
        deadline = time.monotonic() + 10
        while self.ctr("tasks", "ls", "-q").split().count(task) and time.monotonic() < deadline:
            self.ctr("tasks", "rm", "--force", task, check=False)

    def _shims(self) -> list[int]:
        """Pids of the containers' shims, found by our socket in their command lines."""
        pids = []
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = cmdline.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # the process has just ended
            if words[0].rpartition("/")[2].startswith("containerd-shim") and str(self.socket) in words:
                pids.append(int(cmdline.parent.name))
        return pids

    def _config(self) -> str:
        # Without CAP_SYS_RESOURCE no process may lower its OOM score; restrict_oom_score_adj keeps runc from trying.
        unused = [f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")]
        return f"""version = 2
root = "{self.images}"
state = "{self.home / "containerd"}"
disabled_plugins = {json.dumps(unused)}
[grpc]
address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{self.home / "opt"}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{self.home / "cni"}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""

    def _cni(self) -> dict[str, object]:
        first = network.PODS.replace(".0.0/16", ".1.0")
        addresses = {"subnet": network.PODS, "rangeStart": first, "gateway": network.ADDRESS}
        bridge = {
            **{"type": "bridge", "bridge": network.BRIDGE, "isGateway": True, "ipMasq": False, "hairpinMode": True},
            "ipam": {
                "type": "host-local",
                "ranges": [[addresses]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(self.home / "addresses"),
            },
        }
        return {"cniVersion": "1.0.0", "name": network.CNI_NETWORK, "plugins": [bridge]}
