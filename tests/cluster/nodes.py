"""What tests do to the nodes and to KubeRay of any cluster, through its API."""

import json

from tests.cluster import kuberay
from tests.cluster.client import Client

_GPU = "nvidia.com/gpu"


class Nodes(Client):
    """A Kubernetes cluster with at least one node that runs pods."""

    @property
    def node_name(self) -> str:
        """The node that tests change: the last by name, which is a worker if there are several nodes."""
        return max(str(node["metadata"]["name"]) for node in self.list("nodes"))

    def node_ready(self) -> bool:
        """Whether there is a node and every node is ready."""
        nodes = self.list("nodes")
        ready = [
            any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
            for conditions in (node["status"].get("conditions", []) for node in nodes)
        ]
        return bool(ready) and all(ready)

    def advertise_gpus(self, count: int) -> None:
        """Advertise ``count`` GPUs that do not exist: the scheduler counts them, and no container gets one."""
        name, path = self.node_name, f"/status/capacity/{_GPU.replace('/', '~1')}"
        patch = json.dumps([{"op": "add", "path": path, "value": str(count)}])
        self.kubectl("patch", "node", name, "--subresource=status", "--type=json", "--patch", patch)

        def is_advertised() -> bool:
            node = self.get("node", name)
            return node is not None and node["status"]["allocatable"].get(_GPU) == str(count)

        self.wait_for(is_advertised, 60, f"{count} GPUs on node {name}")

    def drain(self, selector: str = "", timeout: float = 120) -> None:
        """Cordon the node and evict its pods, or only those that ``selector`` selects."""
        selection = [f"--pod-selector={selector}"] if selector else []
        options = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={timeout:.0f}s"]
        self.kubectl("drain", self.node_name, *options, *selection)

    def uncordon(self) -> None:
        """Allow new pods on the node again after ``drain``."""
        self.kubectl("uncordon", self.node_name)

    def stop_kuberay(self) -> None:
        """Stop KubeRay's operator until ``start_kuberay``; Ray clusters continue to run."""
        kuberay.stop(self)

    def start_kuberay(self) -> None:
        """Start KubeRay's operator after ``stop_kuberay``, and wait until it is ready."""
        kuberay.start(self)
