"""What a test does to the nodes and the operators of any cluster, through its API."""

import json

from tests.cluster import kuberay
from tests.cluster.client import Client

_GPU = "nvidia.com/gpu"


class Nodes(Client):
    """A Kubernetes with at least one node that runs pods."""

    @property
    def node_name(self) -> str:
        """The node that tests act on: the last by name, which is a worker where there are several."""
        return max(str(node["metadata"]["name"]) for node in self.list("nodes"))

    def node_ready(self) -> bool:
        """Whether there is a node and every one takes pods."""
        nodes = self.list("nodes")
        ready = [
            any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
            for conditions in (node["status"].get("conditions", []) for node in nodes)
        ]
        return bool(ready) and all(ready)

    def advertise_gpus(self, count: int) -> None:
        """Let the node offer ``count`` GPUs that are not there: the scheduler counts them, no container gets one."""
        name, path = self.node_name, f"/status/capacity/{_GPU.replace('/', '~1')}"
        patch = json.dumps([{"op": "add", "path": path, "value": str(count)}])
        self.kubectl("patch", "node", name, "--subresource=status", "--type=json", "--patch", patch)

        def offered() -> bool:
            node = self.get("node", name)
            return node is not None and node["status"]["allocatable"].get(_GPU) == str(count)

        self.wait_for(offered, 60, f"{count} GPUs on node {name}")

    def drain(self, selector: str = "", timeout: float = 120) -> None:
        """Cordon the node and evict its pods, or those that ``selector`` picks."""
        picked = [f"--pod-selector={selector}"] if selector else []
        options = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={timeout:.0f}s"]
        self.kubectl("drain", self.node_name, *options, *picked)

    def uncordon(self) -> None:
        """After ``drain``."""
        self.kubectl("uncordon", self.node_name)

    def stop_kuberay(self) -> None:
        """No KubeRay until ``start_kuberay``; what it made runs on."""
        kuberay.stop(self)

    def start_kuberay(self) -> None:
        """After ``stop_kuberay``; returns when it is ready."""
        kuberay.start(self)
