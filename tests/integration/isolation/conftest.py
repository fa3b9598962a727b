"""Two teams on a real API server: the chart, their users, and jobs with all objects of the operator and KubeRay."""

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from promptintern_api import PromptInternJob, parse_job
from promptintern_operator.manifests.config import config_map, resolve
from promptintern_operator.manifests.identity import role, role_binding, service_account
from promptintern_operator.manifests.rayjob import ray_job
from promptintern_operator.settings import Settings

from tests.cluster import fixtures, programs
from tests.cluster.api_server import ApiServer

api_server = fixtures.api_server

CHART = Path(__file__).parents[3] / "charts" / "promptintern"
RELEASE, SYSTEM = "promptintern", "promptintern-system"
OPERATOR = f"system:serviceaccount:{SYSTEM}:{RELEASE}"
A, B = "team-a", "team-b"
JOBS = {A: ("one", "two"), B: ("bees",)}
SECRET = "s3"
RBAC = "rbac.authorization.k8s.io"

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A response of the API server."""

    code: int
    body: Manifest = field(repr=False)

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Somebody who sends requests: with a certificate, a token, or neither."""

    name: str
    context: ssl.SSLContext
    token: str | None = None


@dataclass
class World:
    """The API server and everybody who sends it requests."""

    server: ApiServer
    subjects: dict[str, Subject] = field(default_factory=dict)

    def ask(self, who: str, method: str, path: str, body: Manifest | None = None, kind: str = "") -> Answer:
        """Send one request; a stream is read to its end."""
        subject = self.subjects[who]
        host = self.server.url.removeprefix("https://")
        connection = http.client.HTTPSConnection(host, context=subject.context, timeout=30)
        headers = {"Content-Type": kind or "application/json"}
        if subject.token is not None:
            headers["Authorization"] = f"Bearer {subject.token}"
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        try:
            content = json.loads(text)
        except ValueError:  # a watch is one line per event, and a log is text
            content = {}
        return Answer(answer.status, content if isinstance(content, dict) else {})

    def add_user(self, name: str) -> None:
        """Add a user with a client certificate."""
        pair = self.server.control_plane.authority.issue(f"client-{name}", user=name)
        context = self.anonymous()
        context.load_cert_chain(pair.certificate, pair.key)
        self.subjects[name] = Subject(name=name, context=context)

    def add_token(self, name: str, token: str | None) -> None:
        """Add a pod with a token, or without one."""
        self.subjects[name] = Subject(name=name, context=self.anonymous(), token=token)

    def anonymous(self) -> ssl.SSLContext:
        """Return an SSL context that trusts the server and presents no certificate."""
        return ssl.create_default_context(cafile=str(self.server.control_plane.authority.own.certificate))

    def allows(
        self, user: str, verb: str, resource: str, *, group: str = "", namespace: str = "", name: str = ""
    ) -> bool:
        """Return whether RBAC allows a request, by a SubjectAccessReview. No namespace means all."""
        resource, _, part = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": resource, "subresource": part, "namespace": namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": _groups(user), "resourceAttributes": attributes | {"name": name}},
        }
        answer = self.ask("admin", "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        assert answer.code == 201, answer
        return bool(answer.body["status"]["allowed"])


def _groups(user: str) -> list[str]:
    if not user.startswith("system:serviceaccount:"):
        return ["system:authenticated"]
    namespace = user.split(":")[2]
    return ["system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{namespace}"]


@pytest.fixture(scope="module")
def world(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A separate API server with the chart for all namespaces; without binaries, the shared one skips."""
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        world = World(server)
        pair = server.control_plane.authority.issue("client-root", user="root", groups=["system:masters"])
        world.add_token("admin", None)
        world.subjects["admin"].context.load_cert_chain(pair.certificate, pair.key)
        server.install_crds(programs.ray_jobs_crd())
        server.helm("install", RELEASE, str(CHART), "--namespace", SYSTEM, "--create-namespace")
        world.add_token("operator", server.token(RELEASE, SYSTEM))
        for team in (A, B):
            _team(world, team)
            for name in JOBS[team]:
                _job(world, team, name)
        world.add_token("no token", None)
        yield world


def _team(world: World, team: str) -> None:
    """Create a namespace, its Secret, and a user with Kubernetes' role `edit` in it."""
    user = f"{team}'s user"
    world.add_user(user)
    # No controller aggregates `edit` here, so its parts are bound.
    parts = [f"{RELEASE}-{what}" for what in ("edit", "view")]
    parts += [f"system:aggregate-to-{what}" for what in ("edit", "view")]
    world.server.apply(
        [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": team}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": team}},
            {
                "apiVersion": f"{RBAC}/v1",
                "kind": "Role",
                "metadata": {"name": "rayjobs", "namespace": team},
                "rules": [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["*"]}],
            },
            bind(team, "rayjobs", "Role", "rayjobs", user),
            *(bind(team, part.replace(":", "-"), "ClusterRole", part, user) for part in parts),
        ]
    )


def bind(namespace: str, name: str, kind: str, role_name: str, user: str) -> Manifest:
    """Return a RoleBinding for a user."""
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": role_name},
        "subjects": [{"kind": "User", "apiGroup": RBAC, "name": user}],
    }


def job(name: str, **spec: Any) -> Manifest:
    """Return a job with credentials; ``spec`` replaces fields of its spec."""
    return {
        "apiVersion": "promptintern.dev/v1alpha1",
        "kind": "PromptInternJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "sample://formulas"},
            "data": {
                "train": {"uri": "sample://formulas/train?world=1&rows=16"},
                "eval": {"uri": "sample://formulas/eval?world=1&rows=16"},
            },
            "prompt": {"template": "{examples}{query}"},
            "storage": {"uri": "s3://bucket/runs", "secretRef": {"name": SECRET}},
        }
        | spec,
    }


def _job(world: World, team: str, name: str) -> None:
    """Create the job as its team's user, its dependents as the operator, and its pods as KubeRay would."""
    jobs = f"/apis/promptintern.dev/v1alpha1/namespaces/{team}/promptinternjobs"
    path = f"{jobs}?fieldManager=test"
    world.server.wait_for(lambda: _was_created(world.ask(f"{team}'s user", "POST", path, job(name))), 30, "the job")
    manifest = world.server.get("pij", name, team)
    assert manifest is not None
    settings = Settings()
    parsed = resolve(parse_job(manifest), settings)
    ray = ray_job(parsed, settings, number=1)
    for manifest, at in (
        (service_account(parsed), "/api/v1/namespaces/{}/serviceaccounts"),
        (role(parsed), f"/apis/{RBAC}/v1/namespaces/{{}}/roles"),
        (role_binding(parsed), f"/apis/{RBAC}/v1/namespaces/{{}}/rolebindings"),
        (config_map(parsed), "/api/v1/namespaces/{}/configmaps"),
        (ray, "/apis/ray.io/v1/namespaces/{}/rayjobs"),
    ):
        path = at.format(team)
        method, kind = ("POST", "") if manifest is ray else ("PATCH", "application/apply-patch+yaml")
        if method == "PATCH":
            path += f"/{manifest['metadata']['name']}?fieldManager=operator&force=true"
        answer = world.ask("operator", method, path, manifest, kind)
        assert answer.code in (200, 201), answer
    head = _pod(world, parsed, ray, "head")
    _pod(world, parsed, ray, "worker")
    world.add_token(f"head of {name}", world.server.token(f"promptintern-{name}", team, pod=f"{name}-head"))
    status = {"status": {"phase": "Training", "currentHeadPodUID": head["metadata"]["uid"]}}
    answer = world.ask("operator", "PATCH", f"{jobs}/{name}/status", status, "application/merge-patch+json")
    assert answer.code == 200, answer


def _was_created(answer: Answer) -> bool:
    """Roles take effect a moment after they are created."""
    if answer.code != 201:
        raise OSError(answer.message)
    return True


def _pod(world: World, parsed: PromptInternJob, ray: Manifest, part: str) -> Manifest:
    """Create a pod from the RayJob's template."""
    spec = ray["spec"]["rayClusterSpec"]
    template = (spec["headGroupSpec"] if part == "head" else spec["workerGroupSpecs"][0])["template"]
    name, namespace = f"{parsed.metadata.name}-{part}", parsed.metadata.namespace
    meta = {"name": name, "namespace": namespace, "labels": template["metadata"]["labels"]}
    world.server.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
    pod = world.server.get("pod", name, namespace)
    assert pod is not None
    return pod


def at(*parts: str, **query: str) -> str:
    """Return a path."""
    path = "/" + "/".join(part for part in parts if part)
    return path + (f"?{urllib.parse.urlencode(query)}" if query else "")
