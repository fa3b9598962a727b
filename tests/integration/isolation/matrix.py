"""One request for every verb and resource, and a table of the responses."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

from tests.integration.isolation.conftest import SECRET, Answer, Manifest, World, at

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete")
Cells = Mapping[tuple[str, str], str]
"""`denied` or `allowed`, by resource and verb."""

_MERGE = "application/merge-patch+json"


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource, its object that belongs to a job, and the verbs that can be tried on it."""

    name: str
    group: str
    named: str
    """The object's name, of which ``*`` stands for any end; ``{}`` stands for the job."""
    verbs: tuple[str, ...] = VERBS

    def root(self, namespace: str) -> str:
        """Return the path of all objects."""
        return at(self.group, "namespaces", namespace, self.name.partition("/")[0])


_CORE, _OURS, _RAY = "api/v1", "apis/promptintern.dev/v1alpha1", "apis/ray.io/v1"
RESOURCES = (
    Resource(name="promptinternjobs", group=_OURS, named="{}"),
    Resource(name="promptinternjobs/status", group=_OURS, named="{}", verbs=("get", "update", "patch")),
    Resource(name="secrets", group=_CORE, named=SECRET),
    Resource(name="rayjobs", group=_RAY, named="{}-a1"),
    Resource(name="configmaps", group=_CORE, named="promptintern-{}-*"),
    Resource(name="pods", group=_CORE, named="{}-head"),
    Resource(name="pods/exec", group=_CORE, named="{}-head", verbs=("get", "create")),
    Resource(name="pods/portforward", group=_CORE, named="{}-head", verbs=("get", "create")),
    Resource(name="pods/log", group=_CORE, named="{}-head", verbs=("get",)),
    Resource(name="serviceaccounts/token", group=_CORE, named="promptintern-{}", verbs=("create",)),
)
ALL = frozenset((resource.name, verb) for resource in RESOURCES for verb in resource.verbs)


def ask_all(world: World, who: str, namespace: str, job: str) -> Cells:
    """Fill every cell with requests of ``who`` on the objects of ``job``. Nothing is changed."""
    return {
        (resource.name, verb): _word(_ask(world, who, namespace, job, resource, verb))
        for resource in RESOURCES
        for verb in resource.verbs
    }


def _word(answer: Answer) -> str:
    """An allowed request may still fail, because no kubelet can open a shell here."""
    assert answer.code != 404, answer
    return "denied" if answer.code in (401, 403) else "allowed"


def _ask(world: World, who: str, namespace: str, job: str, resource: Resource, verb: str) -> Answer:
    root, part = resource.root(namespace), resource.name.partition("/")[2]
    one = at(root.lstrip("/"), _name(world, root, resource.named.format(job)), part)
    if part in ("exec", "portforward"):
        one += "?command=id&stdout=true&ports=8265"
        return world.ask(who, "GET" if verb == "get" else "POST", one)
    if part == "log":
        return world.ask(who, "GET", f"{one}?container=ray-head")
    if part == "token":
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
        return world.ask(who, "POST", one, review)
    if verb in ("get", "list", "watch"):
        where = {"get": one, "list": root, "watch": f"{root}?watch=true&timeoutSeconds=1"}
        return world.ask(who, "GET", where[verb])
    body = world.ask("admin", "GET", one).body
    change: Manifest = {"status": {"training": {"term": 2}}} if part else {"metadata": {"labels": {"a": "b"}}}
    method, path, body = {
        "create": ("POST", root, _another(body)),
        "update": ("PUT", one, body),
        "patch": ("PATCH", one, change),
        "delete": ("DELETE", one, None),
    }[verb]
    return world.ask(who, method, f"{path}?dryRun=All", body, _MERGE if method == "PATCH" else "")


def _name(world: World, root: str, named: str) -> str:
    """Return the name of the only object whose name matches ``named``."""
    if "*" not in named:
        return named
    items = world.ask("admin", "GET", root).body["items"]
    (name,) = fnmatch.filter([item["metadata"]["name"] for item in items], named)
    return name


def _another(body: Manifest) -> Manifest:
    """Return a copy under another name."""
    copy: Manifest = {key: value for key, value in body.items() if key != "status"}
    return copy | {"metadata": {"name": "another", "labels": body["metadata"].get("labels", {})}}


def table(title: str, cells: Cells) -> str:
    """Format the cells, with resources as rows and verbs as columns."""
    rows = [["", *VERBS]]
    rows += [[each.name, *(cells.get((each.name, verb), "") for verb in VERBS)] for each in RESOURCES]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["", title, *lines])
