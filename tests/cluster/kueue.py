"""Kueue from its own chart, with its webhooks; it manages only RayJobs."""

import json

from tests.cluster import programs
from tests.cluster.client import Client

IMAGE = f"localhost/kueue:{programs.VERSIONS}"
NAMESPACE = "kueue-system"
NAME = "kueue-controller-manager"
ENTRYPOINT = "/manager"
_SELECTOR = "app.kubernetes.io/name=kueue"

_CONFIG = {
    "apiVersion": "config.kueue.x-k8s.io/v1beta2",
    "kind": "Configuration",
    "health": {"healthProbeBindAddress": ":8081"},
    "metrics": {"bindAddress": ":8443"},
    "webhook": {"port": 9443},
    "leaderElection": {"leaderElect": False},
    "integrations": {"frameworks": ["ray.io/rayjob"]},
}


def install(client: Client) -> None:
    """Install Kueue, and wait until its webhooks answer."""
    repository, _, tag = IMAGE.rpartition(":")
    manager = {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
    }
    probe = {"initialDelaySeconds": 1}
    values = {
        "controllerManager": {"manager": manager, "readinessProbe": probe},
        "managerConfig": {"controllerManagerConfigYaml": json.dumps(_CONFIG)},
    }
    chart = programs.module_folder(programs.KUEUE) / "charts" / "kueue"
    options = ("--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "180s")
    file = client.kubeconfig.with_name("kueue-values.json")
    file.write_text(json.dumps(values))
    client.helm("upgrade", "--install", "kueue", str(chart), *options, "--values", str(file))
    client.wait_for(lambda: _webhooks_answer(client), 60, "Kueue's webhooks")
    if programs.IS_NEWEST:
        _serve_only(client, "v1beta2")


def remove(client: Client) -> None:
    """Uninstall Kueue, beginning with its webhooks, which would refuse RayJobs once Kueue is gone."""
    client.kubectl("delete", "validatingwebhookconfigurations,mutatingwebhookconfigurations", "--selector", _SELECTOR)
    client.helm("uninstall", "kueue", "--namespace", NAMESPACE, "--ignore-not-found", "--wait", "--timeout", "120s")


def _serve_only(client: Client, version: str) -> None:
    """Serve Kueue's API in one version alone, as the next version of Kueue does."""
    listing = json.loads(client.kubectl("get", "customresourcedefinitions", "--output", "json"))
    for definition in listing["items"]:
        versions = definition["spec"]["versions"]
        if definition["spec"]["group"] != "kueue.x-k8s.io" or version not in {each["name"] for each in versions}:
            continue
        patch = [
            {"op": "replace", "path": f"/spec/versions/{index}/served", "value": each["name"] == version}
            for index, each in enumerate(versions)
        ]
        name = definition["metadata"]["name"]
        client.kubectl("patch", "customresourcedefinition", name, "--type", "json", "--patch", json.dumps(patch))


def _webhooks_answer(client: Client) -> bool:
    flavor = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "probe"}}
    client.kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(flavor))
    return True
