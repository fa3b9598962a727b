"""What Kopf gets to see of the API server's listings and watches: the operator's views of the objects, and no more.

Every tenant can write objects that are watched. Kopf would parse each of them in full, keep many of them at once, and
end at the first one that it cannot parse. Therefore each object is reduced to its view before Kopf parses it. An
object that cannot be reduced is named in the log and skipped.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from promptintern_api.contract import (
    ANNOTATION_RETRY,
    LABEL_JOB,
    LABEL_JOB_UID,
    LABEL_MANAGED_BY,
    retry_request,
)
from promptintern_api.kind import PLURAL

from promptintern_operator import shapes, views
from promptintern_operator.metrics import SKIPPED_OBJECTS
from promptintern_operator.parsing import Meta, parse, without_items

_LINE_BYTES = 16 * 2**20
"""The largest event of a watch. etcd refuses objects above 1.5 MiB, unless it is told otherwise."""
_VIEW_BYTES = 128 * 2**10
"""The largest view in which texts may have ``_TEXT`` characters; in a larger one, they have at most ``_SHORT``."""
_TEXT, _SHORT, _ITEMS = 24_000, 512, 64
"""The largest text in a view (Ray reports 20,000 characters of a log), and the largest number of items in a list."""
_LABELS = (LABEL_MANAGED_BY, LABEL_JOB, LABEL_JOB_UID)
_NAME = re.compile(
    rb'"name": ?"([-a-z0-9.]{1,253})", ?(?:"generateName": ?"[-a-z0-9.]{0,253}", ?)?"namespace": ?"([-a-z0-9]{1,63})"'
)
_GONE = 410
"""The code of the error after which Kopf lists all objects again."""
_AT_ONCE = 10
"""The number of objects of a page that are reduced before other work gets its turn."""
_log = structlog.get_logger("promptintern.operator")


class _Object(msgspec.Struct, rename="camel"):
    metadata: Meta
    api_version: str = ""
    kind: str = ""
    spec: msgspec.Raw = msgspec.Raw(b"{}")
    status: msgspec.Raw = msgspec.Raw(b"{}")


class _Definition(msgspec.Struct):
    """The spec of a CustomResourceDefinition, of which Kopf reads only the group."""

    group: str = ""


class _JobStatus(msgspec.Struct):
    phase: str | None = None
    attempts: list[msgspec.Raw] | None = None


class _Page(msgspec.Struct, rename="camel"):
    metadata: dict[str, Any]
    api_version: str = ""
    kind: str = ""
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A watched kind: its view, and the parts of its objects that the view reads."""

    view: type
    build: Callable[[Any], Any]
    spec: type
    status: type


KINDS = {
    "rayjobs": Kind(
        view=views.RayJobView, build=views.ray_job_view, spec=shapes.RayJobSpec, status=shapes.RayJobStatus
    ),
    "pods": Kind(view=views.PodView, build=views.pod_view, spec=shapes.PodSpec, status=shapes.PodStatus),
    "jobs": Kind(
        view=views.PreflightView, build=views.preflight_view, spec=shapes.BatchJobSpec, status=shapes.BatchJobStatus
    ),
    "workloads": Kind(
        view=views.WorkloadView, build=views.workload_view, spec=shapes.WorkloadSpec, status=shapes.WorkloadStatus
    ),
}
"""The watched kinds by plural name, except for PromptInternJobs, which are kept whole."""


async def reduce_page(plural: str, content: bytes) -> dict[str, Any]:
    """Return a page of a listing of the kind ``plural`` with reduced objects.

    Raises:
        msgspec.MsgspecError: if the content is not a listing, or nests too deep.
    """
    page = parse(content, _Page)
    kind, items = page.kind.removesuffix("List"), []
    for number, raw in enumerate(page.items or []):
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
        reduced = _reduced(plural, raw, kind=kind, api_version=page.api_version)
        if reduced is not None:
            items.append(reduced)
    return {"apiVersion": page.api_version, "kind": page.kind, "metadata": page.metadata, "items": items}


def skip_object(plural: str, content: bytes) -> dict[str, Any]:
    """Return a page that holds a single object, which cannot be parsed, without this object.

    Raises:
        msgspec.MsgspecError: if the rest of the page cannot be parsed either.
    """
    _report(plural, content, "it nests too deep")
    page = parse(without_items(content), _Page)
    return {"apiVersion": page.api_version, "kind": page.kind, "metadata": page.metadata, "items": []}


def reduce_event(plural: str, line: bytes) -> bytes:
    """Return an event of a watch of the kind ``plural`` with a reduced object, or b"" if the event is skipped."""
    try:
        event = parse(line, _Event)
        if event.type == "ERROR":
            # Kopf ends at every error except this one, after which it lists all objects again.
            _log.warning("watch failed", kind=plural, error=_clipped(bytes(event.object).decode(errors="replace")))
            return msgspec.json.encode({"type": "ERROR", "object": {"kind": "Status", "code": _GONE}})
        if event.type == "BOOKMARK":
            reduced: dict[str, Any] | None = _bookmark(event.object)
        else:
            reduced = _reduced(plural, event.object, is_deleted=event.type == "DELETED")
    except msgspec.MsgspecError as error:
        _report(plural, line, error)
        return b""
    return msgspec.json.encode({"type": event.type, "object": reduced}) if reduced is not None else b""


async def reduce_stream(plural: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of a watch of the kind ``plural`` with reduced objects. A line above the limit is skipped."""
    rest, is_skipping = bytearray(), False
    async for chunk in chunks:
        *ends, start = chunk.split(b"\n")
        for end in ends:
            if not is_skipping and (reduced := reduce_event(plural, bytes(rest + end)) if rest or end else b""):
                yield reduced + b"\n"
            rest.clear()
            is_skipping = False
        if not is_skipping:
            rest += start
            if len(rest) > _LINE_BYTES:
                _report(plural, bytes(rest), "it is too large")
                rest.clear()
                is_skipping = True


def job_view(content: bytes) -> views.JobView:
    """Return the view of a PromptInternJob.

    Raises:
        msgspec.MsgspecError: if the content is no PromptInternJob, or nests too deep.
    """
    return _job_view(parse(content, _Object), api_version="", kind="")


def _reduced(
    plural: str, raw: msgspec.Raw, *, kind: str = "", api_version: str = "", is_deleted: bool = False
) -> dict[str, Any] | None:
    """Return the object as Kopf gets it, with its view unless it is deleted. Return None if the object is skipped."""
    try:
        item = parse(raw, _Object)
        reduced = {
            "apiVersion": item.api_version or api_version,
            "kind": item.kind or kind,
            "metadata": msgspec.to_builtins(_identity(item.metadata)),
        }
        if plural == PLURAL:
            job = _job_view(item, api_version=reduced["apiVersion"], kind=reduced["kind"])
            return reduced if is_deleted else reduced | {"view": msgspec.to_builtins(job)}
        if plural not in KINDS:
            return reduced | {"spec": msgspec.to_builtins(parse(item.spec, _Definition))}
        return reduced if is_deleted else reduced | {"view": _view(KINDS[plural], item)}
    except Exception as error:  # noqa: BLE001 -- whatever is wrong with one object must not hide the others
        _report(plural, bytes(raw), error)
        return None


def _identity(meta: Meta) -> Meta:
    """Return the part of the metadata that Kopf and the handlers read."""
    owners = meta.owner_references or []
    return Meta(
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        resource_version=meta.resource_version,
        labels={name: value for name, value in (meta.labels or {}).items() if name in _LABELS},
        owner_references=[
            *[owner for owner in owners if owner.controller][:1],
            *[owner for owner in owners if owner.kind == "RayJob" and not owner.controller][:1],
        ],
    )


def _job_view(item: _Object, *, api_version: str, kind: str) -> views.JobView:
    meta, status = item.metadata, parse(item.status, _JobStatus)
    kept = Meta(
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        deletion_timestamp=meta.deletion_timestamp,
        labels=meta.labels,
        annotations={ANNOTATION_RETRY: request} if (request := retry_request(meta.annotations)) else {},
    )
    whole = {
        "apiVersion": item.api_version or api_version,
        "kind": item.kind or kind,
        "metadata": kept,
        "spec": item.spec,
        "status": item.status,
    }
    return views.JobView(
        uid=meta.uid,
        version=meta.resource_version,
        generation=meta.generation or 0,
        deleting=meta.deletion_timestamp is not None,
        phase=status.phase or "Pending",
        attempted=bool(status.attempts),
        packed=views.pack(msgspec.json.encode(whole)),
    )


def _view(kind: Kind, item: _Object) -> Any:
    """Return the view of an object as JSON values, which are certain to convert back to the view."""
    parts: dict[str, Any] = {
        "metadata": item.metadata,
        "spec": parse(item.spec, kind.spec),
        "status": parse(item.status, kind.status),
    }
    view = msgspec.to_builtins(kind.build(msgspec.to_builtins(parts)))
    values = _bounded(view, _TEXT)
    if len(msgspec.json.encode(values)) > _VIEW_BYTES:
        values = _bounded(values, _SHORT)
    msgspec.convert(values, kind.view)
    return values


def _bookmark(raw: msgspec.Raw) -> dict[str, Any]:
    item = parse(raw, _Object)
    return {"kind": item.kind, "metadata": {"resourceVersion": item.metadata.resource_version}}


def _bounded(value: Any, characters: int) -> Any:
    """Return a view with bounded texts and lists."""
    if isinstance(value, dict):
        return {name: _bounded(item, characters) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bounded(item, characters) for item in value[:_ITEMS]]
    return _clipped(value, characters) if isinstance(value, str) else value


def _clipped(text: str, characters: int = _SHORT) -> str:
    """Return ``text`` without its middle if it is too long; an error is at the beginning or at the end of a log."""
    if len(text) <= characters:
        return text
    head = characters // 6
    return f"{text[:head]}…{text[len(text) - (characters - head - 1) :]}"


def _report(plural: str, content: bytes, why: object) -> None:
    """Log an object that is skipped, with the name and namespace that the text seems to give it."""
    found = _NAME.search(content)
    place = {"name": found[1].decode(), "namespace": found[2].decode()} if found else {}
    _log.error("object skipped", kind=plural, **place, why=_clipped(str(why)), bytes=len(content))
    SKIPPED_OBJECTS.labels(kind=plural).inc()
