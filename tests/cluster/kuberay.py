"""KubeRay's operator as users run it: its own manifests, in all namespaces, its image made of its program alone."""

from typing import Any

import yaml

from tests.cluster import programs
from tests.cluster.client import Client

IMAGE = "localhost/kuberay-operator:test"
MODULE = "github.com/ray-project/kuberay/ray-operator"
NAMESPACE = "kuberay"
NAME = "kuberay-operator"
ENTRYPOINT = "/manager"


def manifests(kustomized: str) -> list[dict[str, Any]]:
    """What KubeRay ships, in a namespace of its own and with the image that is here.

    It gets more processor than it ships with (a tenth of a core starts it in half a minute), and stays on a node that
    is being drained, as there may be no other.
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
    """Install or repair it, and wait until it is ready."""
    folder = programs.module_folder(MODULE) / "config" / "default"
    client.install_crds(*programs.kuberay_crds())
    found = manifests(client.kubectl("kustomize", str(folder)))
    client.apply([item for item in found if item["kind"] != "CustomResourceDefinition"])
    wait_until_ready(client)


def wait_until_ready(client: Client) -> None:
    """Until it watches."""
    client.kubectl("rollout", "status", f"deployment/{NAME}", "--namespace", NAMESPACE, "--timeout=300s")


def stop(client: Client) -> None:
    """No KubeRay until ``start``; what it made runs on."""
    client.kubectl("scale", f"deployment/{NAME}", "--namespace", NAMESPACE, "--replicas=0")
    selector = "app.kubernetes.io/component=kuberay-operator"
    gone = ("wait", "--for=delete", "pod", "--selector", selector, "--namespace", NAMESPACE, "--timeout=60s")
    client.kubectl(*gone)


def start(client: Client) -> None:
    """After ``stop``."""
    client.kubectl("scale", f"deployment/{NAME}", "--namespace", NAMESPACE, "--replicas=1")
    wait_until_ready(client)
