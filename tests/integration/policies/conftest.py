"""The chart's policies and Roles on a real API server, in separate namespaces."""

import json
import ssl
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from promptintern_api import parse_job
from promptintern_operator.manifests.identity import role, role_binding, service_account

from tests.cluster import fixtures
from tests.cluster.api_server import ApiServer

api_server = fixtures.api_server

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "promptintern"
CRD = ROOT / "crds" / "promptinternjobs.promptintern.dev.yaml"
RELEASE = "promptintern"
ALLOWED_IMAGES = ("registry.example/team", "registry.example:5000/exact/trainer:1.0", "hub.example")
DEFAULT_SECRET = "platform-s3"

RBAC_GROUP = "rbac.authorization.k8s.io"
RBAC = f"{RBAC_GROUP}/v1"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """A response of the API server."""

    status: int
    message: str
    body: dict[str, Any] = field(repr=False)


@dataclass
class World:
    """A release of the chart that serves the namespace ``tenant``, and users with tokens."""

    server: ApiServer
    release_namespace: str
    tenant: str
    tokens: dict[str, str] = field(default_factory=dict)
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        authority = self.server.server()["cluster"]["certificate-authority-data"]
        self.context = ssl.create_default_context(cadata=b64decode(authority).decode())

    def ask(
        self, who: str, method: str, path: str, body: dict[str, Any] | None = None, content_type: str = JSON
    ) -> Answer:
        """Send one request with the token of ``who``; kubectl would send more than the tested one."""
        request = urllib.request.Request(
            f"{self.server.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.tokens[who]}", "Content-Type": content_type},
        )
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=20) as answer:
                return Answer(answer.status, "", json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            body = json.loads(error.read())
            return Answer(error.code, body.get("message", ""), body)

    def jobs(self, *more: str, namespace: str | None = None) -> str:
        """Return a path below the tenant's jobs."""
        return "/".join(
            (f"/apis/promptintern.dev/v1alpha1/namespaces/{namespace or self.tenant}/promptinternjobs", *more)
        )

    def create(self, who: str, job: dict[str, Any], *, keep: bool = False) -> Answer:
        """Create ``job`` in the tenant's namespace, as a dry run unless ``keep`` is set."""
        return self.ask(who, "POST", self.jobs() + ("" if keep else "?dryRun=All"), job)

    def merge(self, who: str, name: str, patch: dict[str, Any], *, namespace: str | None = None) -> Answer:
        """Merge ``patch`` into a job."""
        return self.ask(who, "PATCH", self.jobs(name, namespace=namespace), patch, MERGE)

    def merge_status(
        self, who: str, name: str, status: dict[str, Any], *, keep: bool = False, namespace: str | None = None
    ) -> Answer:
        """Merge ``status`` into a job's status, as a dry run unless ``keep`` is set."""
        path = self.jobs(name, "status", namespace=namespace) + ("" if keep else "?dryRun=All")
        return self.ask(who, "PATCH", path, {"status": status}, MERGE)

    def apply_status(self, who: str, name: str, status: dict[str, Any], manager: str) -> Answer:
        """Apply ``status`` as the trainer and the operator do."""
        body = {
            "apiVersion": "promptintern.dev/v1alpha1",
            "kind": "PromptInternJob",
            "metadata": {"name": name, "namespace": self.tenant},
            "status": status,
        }
        return self.ask(who, "PATCH", self.jobs(name, "status") + f"?fieldManager={manager}&force=true", body, APPLY)


def job(name: str, **spec: Any) -> dict[str, Any]:
    """Return a job that names no Secret; ``spec`` replaces fields of its spec, and None omits them."""
    fields: dict[str, Any] = {
        "model": {"uri": "sample://formulas"},
        "data": {
            "train": {"uri": "sample://formulas/train?world=1&rows=16"},
            "eval": {"uri": "sample://formulas/eval?world=1&rows=16"},
        },
        "prompt": {"template": "{examples}{query}"},
        "storage": {"uri": "s3://bucket/runs"},
    } | spec
    return {
        "apiVersion": "promptintern.dev/v1alpha1",
        "kind": "PromptInternJob",
        "metadata": {"name": name},
        "spec": {key: value for key, value in fields.items() if value is not None},
    }


def render(server: ApiServer, namespace: str, *values: str) -> list[dict[str, Any]]:
    """Return the objects of the chart."""
    sets = [argument for value in values for argument in ("--set", value)]
    text = server.helm("template", RELEASE, str(CHART), "--namespace", namespace, "--no-hooks", *sets)
    return [item for item in yaml.safe_load_all(text) if item]


@pytest.fixture(scope="session")
def world(api_server: ApiServer) -> Iterator[World]:
    """The chart installed for one tenant, with all its policies active."""
    server, mark = api_server, uuid4().hex[:6]
    world = World(server, release_namespace=f"policies-{mark}", tenant=f"tenant-{mark}")
    server.install_crds(CRD)
    server.apply([_namespace(world.release_namespace), _namespace(world.tenant)])
    objects = render(
        server,
        world.release_namespace,
        "crds.install=false",
        f"namespaces={{{world.tenant}}}",
        f"trainer.allowedImages={{{','.join(ALLOWED_IMAGES)}}}",
        f"defaultStorage.uri=s3://platform/runs,defaultStorage.secretName={DEFAULT_SECRET}",
    )
    server.apply(objects)
    world.tokens["operator"] = server.token(RELEASE, world.release_namespace)
    yield world
    for item in objects:
        if item["kind"].startswith(("ValidatingAdmissionPolicy", "ClusterRole")):
            server.kubectl("delete", item["kind"], item["metadata"]["name"], "--ignore-not-found", check=False)


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def person(world: World, name: str, rules: list[dict[str, Any]], *, jobs: bool = True) -> None:
    """Create a user in the tenant's namespace with the chart's role for editing jobs, and ``rules``."""
    meta = {"name": name, "namespace": world.tenant}
    subjects = [{"kind": "ServiceAccount", **meta}]
    world.server.apply(
        [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
            {"apiVersion": RBAC, "kind": "Role", "metadata": meta, "rules": rules},
            binding(meta, "Role", name, subjects),
            *(
                binding(
                    {"name": f"{name}-{what}", "namespace": world.tenant},
                    "ClusterRole",
                    f"{RELEASE}-{world.release_namespace}-{what}",
                    subjects,
                )
                for what in ("edit", "view")
                if jobs
            ),
        ]
    )
    world.tokens[name] = world.server.token(name, world.tenant)


def may(verb: str, resource: str, *names: str, group: str = "") -> dict[str, Any]:
    """Return a rule of a Role."""
    return {"apiGroups": [group], "resources": [resource], "verbs": [verb]} | (
        {"resourceNames": list(names)} if names else {}
    )


def binding(meta: dict[str, Any], kind: str, name: str, subjects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a RoleBinding to a Role or ClusterRole."""
    return {
        "apiVersion": RBAC,
        "kind": "RoleBinding",
        "metadata": meta,
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": kind, "name": name},
        "subjects": subjects,
    }


def trainer(world: World, name: str, pods: dict[str, str]) -> None:
    """Create the operator's objects for the job ``name`` with its own token, and tokens bound to ``pods``."""
    stored = world.server.get("promptinternjob", name, world.tenant)
    assert stored is not None
    parsed = parse_job(stored)
    for manifest, path in (
        (service_account(parsed), "/api/v1/namespaces/{}/serviceaccounts"),
        (role(parsed), f"/apis/{RBAC}/namespaces/{{}}/roles"),
        (role_binding(parsed), f"/apis/{RBAC}/namespaces/{{}}/rolebindings"),
    ):
        answer = world.ask("operator", "POST", path.format(world.tenant), manifest)
        assert answer.status == 201, answer
    account = f"promptintern-{name}"
    world.tokens[f"{name}, no pod"] = world.server.token(account, world.tenant)
    for who, pod in pods.items():
        world.server.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": pod, "namespace": world.tenant},
                "spec": {"serviceAccountName": account, "containers": [{"name": "ray-head", "image": "example"}]},
            }
        )
        world.tokens[who] = world.server.token(account, world.tenant, pod=pod)


def uid(world: World, pod: str) -> str:
    """Return the uid of a pod."""
    body = world.server.get("pod", pod, world.tenant)
    assert body is not None
    return str(body["metadata"]["uid"])
