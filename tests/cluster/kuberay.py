"""KubeRay's operator as users run it: its own manifests, for all namespaces, with an image of only its program."""

from typing import Any

import yaml

from tests.cluster import programs
from tests.cluster.client import Client

IMAGE = f"localhost/kuberay-operator:{programs.VERSIONS}"
NAMESPACE = "kuberay"
NAME = "kuberay-operator"
ENTRYPOINT = "/manager"


def manifests(kustomized: str) -> list[dict[str, Any]]:
    """KubeRay's own manifests, changed to use a separate namespace and the image that was built here.

    The operator gets more CPU than by default, where a tenth of a core takes half a minute to start it. It tolerates a
    node that is being drained, because there may be no other node.
    """
    items = [item for item in yaml.safe_load_all(kustomized) if item]
    for item in items:
        if item["kind"] == "Deployment":
            pod = item["spec"]["template"]["spec"]
            pod["tolerations"] = [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]
            (container,) = pod["containers"]
            container |= {"image": IMAGE, "imagePullPolicy": "Never"}
            container["resources"] = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
            container["readinessProbe"] |= {"initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 60}
        if "namespace" in item["metadata"]:
            item["metadata"]["namespace"] = NAMESPACE
        for subject in item.get("subjects", ()):
            subject["namespace"] = NAMESPACE
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, *items]


def install(client: Client) -> None:
    """Install or repair KubeRay, and wait until it is ready."""
    folder = programs.module_folder(programs.KUBERAY) / "config" / "default"
    client.install_crds(*programs.kuberay_crds())
    items = manifests(client.kubectl("kustomize", str(folder)))
    client.apply([item for item in items if item["kind"] != "CustomResourceDefinition"])
    wait_until_ready(client)


def wait_until_ready(client: Client) -> None:
    """Wait until KubeRay's operator is ready."""
    client.kubectl("rollout", "status", f"deployment/{NAME}", "--namespace", NAMESPACE, "--timeout=300s")


def stop(client: Client) -> None:
    """Stop KubeRay's operator until ``start``; Ray clusters continue to run."""
    client.kubectl("scale", f"deployment/{NAME}", "--namespace", NAMESPACE, "--replicas=0")
    selector = "app.kubernetes.io/component=kuberay-operator"
    client.kubectl("wait", "--for=delete", "pod", "--selector", selector, "--namespace", NAMESPACE, "--timeout=60s")


def start(client: Client) -> None:
    """Start KubeRay's operator after ``stop``."""
    client.kubectl("scale", f"deployment/{NAME}", "--namespace", NAMESPACE, "--replicas=1")
    wait_until_ready(client)
