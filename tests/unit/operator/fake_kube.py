"""An API server that is a dict."""

import asyncio
import itertools
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from typing import Any

from promptintern_operator.kube import RequestFailed, Resource

from tests.unit.operator.builders import job

Body = dict[str, Any]
_KINDS = {"rayjobs": "RayJob", "jobs": "Job"}


class FakeKube:
    """Every object by kind and name, and every request; ``refuse`` may raise for a kind that is to be made."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Body] = {}
        self.status: Body = {}
        self.events: list[Body] = []
        self.requests: list[str] = []
        self.refuse: Callable[[str], None] = lambda _: None
        self.gates: dict[str, asyncio.Event] = {}
        """What keeps objects of a kind from being made."""
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
        born = {"uid": f"uid-{next(self._uids)}", "creationTimestamp": datetime.now(UTC).isoformat(timespec="seconds")}
        made = {**manifest, "metadata": {**manifest["metadata"], **born, **meta}}
        self.objects[manifest["kind"], manifest["metadata"]["name"]] = made
        return made

    async def get(self, resource: Resource, namespace: str, name: str) -> Body | None:
        self.requests.append(f"get {resource.plural}")
        return self.objects.get((_KINDS[resource.plural], name))

    async def read(self, manifest: Mapping[str, Any]) -> Body:
        self.requests.append(f"look at {manifest['kind']}")
        found = self.objects.get((manifest["kind"], manifest["metadata"]["name"]))
        if found is None:
            raise RequestFailed("not found", status=404, reason="NotFound")
        return found

    async def apply(self, manifest: Mapping[str, Any], *, uid: str) -> None:
        self.requests.append(f"apply {manifest['kind']}")
        known = self.objects[manifest["kind"], manifest["metadata"]["name"]]
        assert known["metadata"]["uid"] == uid
        known |= {name: value for name, value in manifest.items() if name != "metadata"}

    async def remove_annotations(self, there: Body, *, keep: Container[str]) -> None:
        known = self.objects[there["kind"], there["metadata"]["name"]]["metadata"]
        known["annotations"] = {name: value for name, value in known.get("annotations", {}).items() if name in keep}

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        self.requests.append(f"delete {resource.plural}")
        self.objects.pop((_KINDS[resource.plural], name), None)

    async def apply_job_status(self, *_: str, uid: str, version: str, status: Body) -> Body:
        self.requests.append("status")
        self.status = dict(status)
        return job_body(self.status, version=int(version) + 1)

    async def record_event(self, event: Body) -> None:
        self.events.append(event)

    def condition(self, kind: str) -> tuple[str, str, str]:
        return next((c["status"], c["reason"], c["message"]) for c in self.status["conditions"] if c["type"] == kind)


def job_body(status: Body, version: int = 1, generation: int = 1) -> Body:
    """The small job as the API server shows it."""
    document = job().to_wire() | {"status": status}
    document["metadata"] |= {"resourceVersion": str(version), "generation": generation}
    return document
