"""The operator's rights and environment from the chart; only the pod is missing."""

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import yaml

from tests.cluster import programs
from tests.cluster.api_server import ApiServer
from tests.cluster.client import wait_for
from tests.integration.operator.requests import Body, Refused, Requests

ROOT = Path(__file__).parents[3]
CRD = ROOT / "crds" / "promptinternjobs.promptintern.dev.yaml"
RELEASE = "promptintern"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SYSTEM = "promptintern-system"


@dataclass(frozen=True)
class Release:
    """An installed chart."""

    kubeconfig: Path
    """The kubeconfig of the operator's ServiceAccount."""
    environment: dict[str, str]


def install_crd(requests: Requests, file: Path) -> None:
    """Create the CRD in ``file``: kubectl takes seconds for KubeRay's half a megabyte."""
    create_crd(requests, yaml.load(file.read_text(), yaml.CSafeLoader))


def create_crd(requests: Requests, definition: Body) -> None:
    """Create a CRD and wait until it is served."""
    requests.ask("POST", CRDS, definition)
    spec = definition["spec"]
    path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"

    def served() -> bool:
        try:
            return requests.find(path) is not None
        except Refused as error:
            if error.status == 429:  # its storage is being initialized
                return False
            raise

    wait_for(served, 30, f"{path} to be served")


def install(server: ApiServer, requests: Requests, *values: str) -> Release:
    """Install the chart's objects, our CRD, and KubeRay's CRD of RayJobs."""
    install_crd(requests, CRD)
    install_crd(requests, programs.ray_jobs_crd())
    sets = [word for value in ("crds.install=false", *values) for word in ("--set", value)]
    text = server.helm(
        "template", RELEASE, str(ROOT / "charts" / "promptintern"), "--namespace", SYSTEM, "--no-hooks", *sets
    )
    objects = [item for item in yaml.safe_load_all(text) if item]
    server.kubectl("create", "namespace", SYSTEM)
    server.kubectl("create", "-f", "-", input=text)
    deployment = next(item for item in objects if item["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    token = server.token(deployment["spec"]["template"]["spec"]["serviceAccountName"], SYSTEM)
    return Release(
        kubeconfig=server.kubeconfig_with_token(token, server.home / "users" / "operator"),
        environment={item["name"]: item["value"] for item in container["env"] if "value" in item}
        | {"PROMPTINTERN_OPERATOR_NAMESPACE": SYSTEM},
    )


def create_namespace(requests: Requests, prefix: str = "team") -> str:
    """Create a namespace and return its name."""
    name = f"{prefix}-{uuid4().hex[:6]}"
    requests.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return name
