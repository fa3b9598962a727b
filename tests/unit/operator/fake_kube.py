"""An API server that is a dict."""

import asyncio
import itertools
import json
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from typing import Any

from promptintern_operator.intake import job_view
from promptintern_operator.kube import RequestFailed, Resource
from promptintern_operator.views import JobView

from tests.unit.operator.builders import job

Body = dict[str, Any]
_KINDS = {"promptinternjobs": "PromptInternJob", "rayjobs": "RayJob", "jobs": "Job", "configmaps": "ConfigMap"}


class FakeKube:
    """Holds every object by kind and name, and every request. ``refuse`` may raise for a kind that is to be created."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Body] = {}
        self.status: Body = {}
        self.events: list[Body] = []
        self.requests: list[str] = []
        self.refuse: Callable[[str], None] = lambda _: None
        self.gates: dict[str, asyncio.Event] = {}
        """Events that block the creation of objects of a kind until they are set."""
        self.deleted_version: str | None = None
        """The resource version that the last deletion required."""
        self._uids = itertools.count(1)

    async def create(self, manifest: Mapping[str, Any]) -> Body | None:
        self.requests.append(f"create {manifest['kind']}")
        if (gate := self.gates.get(manifest["kind"])) is not None:
            await gate.wait()
        place = (manifest["kind"], manifest["metadata"]["name"])
        if place in self.objects:
            return None
        self.refuse(manifest["kind"])
        return self.put(manifest)

    def put(self, manifest: Mapping[str, Any], **meta: Any) -> Body:
        server_fields = {
            "uid": f"uid-{next(self._uids)}",
            "creationTimestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        body = {**manifest, "metadata": {**manifest["metadata"], **server_fields, **meta}}
        self.objects[manifest["kind"], manifest["metadata"]["name"]] = body
        return body

    async def get(self, resource: Resource, namespace: str, name: str) -> Body | None:
        self.requests.append(f"get {resource.plural}")
        return self.objects.get((_KINDS[resource.plural], name))

    async def read(self, manifest: Mapping[str, Any]) -> Body:
        self.requests.append(f"read {manifest['kind']}")
        body = self.objects.get((manifest["kind"], manifest["metadata"]["name"]))
        if body is None:
            raise RequestFailed("not found", status=404, reason="NotFound")
        return body

    async def apply(self, manifest: Mapping[str, Any], *, uid: str) -> None:
        self.requests.append(f"apply {manifest['kind']}")
        body = self.objects[manifest["kind"], manifest["metadata"]["name"]]
        assert body["metadata"]["uid"] == uid
        body |= {name: value for name, value in manifest.items() if name != "metadata"}

    async def remove_annotations(self, body: Body, *, keep: Container[str]) -> None:
        meta = self.objects[body["kind"], body["metadata"]["name"]]["metadata"]
        meta["annotations"] = {name: value for name, value in meta.get("annotations", {}).items() if name in keep}

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, version: str | None = None
    ) -> None:
        self.requests.append(f"delete {resource.plural}")
        self.deleted_version = version
        self.objects.pop((_KINDS[resource.plural], name), None)

    async def apply_job_status(self, *_: str, uid: str, version: str, status: Body) -> JobView:
        self.requests.append("status")
        self.status = dict(status)
        return view_of_job(job_body(self.status, version=int(version) + 1))

    async def get_job(self, namespace: str, name: str) -> tuple[JobView, Body] | None:
        self.requests.append("get promptinternjobs")
        body = self.objects.get(("PromptInternJob", name))
        return (view_of_job(body), body) if body else None

    async def record_event(self, event: Body) -> None:
        self.events.append(event)

    def condition(self, kind: str) -> tuple[str, str, str]:
        return next((c["status"], c["reason"], c["message"]) for c in self.status["conditions"] if c["type"] == kind)


def view_of_job(body: Mapping[str, Any]) -> JobView:
    """Return the view of a job that the API server delivers as ``body``."""
    return job_view(json.dumps(body).encode())


def job_body(status: Body, version: int = 1, generation: int = 1) -> Body:
    """Return the small job as the API server delivers it."""
    document = job().to_wire() | {"status": status}
    document["metadata"] |= {"resourceVersion": str(version), "generation": generation}
    return document
