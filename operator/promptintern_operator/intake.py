"""What Kopf gets to see of the API server's listings and watches: the operator's views of the objects, and no more.

Every tenant can write objects that are watched. Kopf would parse each of them in full, keep many of them at once, and
end at the first one that it cannot parse. Therefore each object is reduced to its view before Kopf parses it. An
object that cannot be reduced is named in the log and skipped.
"""

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import structlog
from promptintern_api.contract import LABEL_JOB, LABEL_JOB_UID, LABEL_MANAGED_BY
from promptintern_api.job import PLURAL

from promptintern_operator.metrics import SKIPPED_OBJECTS
from promptintern_operator.parsing import TOO_DEEP, parse
from promptintern_operator.views import (
    JobView,
    PodView,
    PreflightView,
    RayJobView,
    WorkloadView,
    job_view,
    pod_view,
    preflight_view,
    ray_job_view,
    workload_view,
)

_LINE_BYTES = 16 * 2**20
"""The largest event of a watch. etcd refuses objects above 1.5 MiB, unless it is told otherwise."""
_TEXT_CHARACTERS, _ITEMS = 4096, 64
"""The largest text, and the largest number of items of a list, in a view."""
_LABELS = (LABEL_MANAGED_BY, LABEL_JOB, LABEL_JOB_UID)
_NAME = re.compile(rb'"name": ?"([-a-z0-9.]{1,253})"')
_GONE = 410
"""The code of the error after which Kopf lists all objects again."""
_log = structlog.get_logger("promptintern.operator")


class _Owner(msgspec.Struct, rename="camel", omit_defaults=True):
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class _Meta(msgspec.Struct, rename="camel", omit_defaults=True):
    """The metadata that the operator reads. A decoder skips all other fields without building them."""

    name: str = ""
    namespace: str | None = None
    uid: str = ""
    resource_version: str = ""
    generation: int | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[_Owner] | None = None


class _Object(msgspec.Struct, rename="camel"):
    metadata: _Meta
    api_version: str = ""
    kind: str = ""
    spec: msgspec.Raw = msgspec.Raw(b"{}")
    status: msgspec.Raw = msgspec.Raw(b"{}")


class _Definition(msgspec.Struct):
    """The spec of a CustomResourceDefinition, of which Kopf reads only the group."""

    group: str = ""


class _Page(msgspec.Struct, rename="camel"):
    metadata: dict[str, Any]
    api_version: str = ""
    kind: str = ""
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


_VIEWS: dict[str, tuple[Callable[[Any], Any], type]] = {
    PLURAL: (job_view, JobView),
    "rayjobs": (ray_job_view, RayJobView),
    "pods": (pod_view, PodView),
    "jobs": (preflight_view, PreflightView),
    "workloads": (workload_view, WorkloadView),
}


def reduce_page(plural: str, content: bytes) -> dict[str, Any]:
    """Return a page of a listing of the kind ``plural`` with reduced objects.

    Raises:
        msgspec.DecodeError: if the content is not a listing.
    """
    page = parse(content, _Page)
    kind = page.kind.removesuffix("List")
    reduced = (_reduced(plural, item, kind=kind, api_version=page.api_version) for item in page.items or [])
    return {
        "apiVersion": page.api_version,
        "kind": page.kind,
        "metadata": page.metadata,
        "items": [item for item in reduced if item is not None],
    }


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
    except (msgspec.MsgspecError, RecursionError) as error:
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


def _reduced(
    plural: str, raw: msgspec.Raw, *, kind: str = "", api_version: str = "", is_deleted: bool = False
) -> dict[str, Any] | None:
    """Return the object as Kopf gets it, with its view unless it is deleted. Return None if the object is skipped."""
    content = bytes(raw)
    try:
        item = parse(content, _Object)
        if TOO_DEEP.encode() in content:
            _log.warning("parts of an object nest too deep", kind=plural, **_place(item.metadata))
        reduced = {
            "apiVersion": item.api_version or api_version,
            "kind": item.kind or kind,
            "metadata": msgspec.to_builtins(_identity(item.metadata)),
        }
        if plural not in _VIEWS:
            return reduced | {"spec": msgspec.to_builtins(parse(item.spec, _Definition))}
        return reduced if is_deleted else reduced | {"view": _view(plural, item, reduced)}
    except Exception as error:  # noqa: BLE001 -- whatever is wrong with one object must not hide the others
        _report(plural, content, error)
        return None


def _identity(meta: _Meta) -> _Meta:
    """Return the part of the metadata that Kopf and the handlers read."""
    return _Meta(
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        resource_version=meta.resource_version,
        labels={name: value for name, value in (meta.labels or {}).items() if name in _LABELS},
        owner_references=[o for o in meta.owner_references or [] if o.controller or o.kind == "RayJob"][:2],
    )


def _view(plural: str, item: _Object, reduced: dict[str, Any]) -> Any:
    """Return the view of an object as JSON values, which are certain to convert back to the view."""
    view, kind = _VIEWS[plural]
    body = {
        **reduced,
        "metadata": msgspec.to_builtins(item.metadata),
        "spec": item.spec if plural == PLURAL else parse(item.spec),
        "status": parse(item.status),
    }
    values = _bounded(msgspec.to_builtins(view(body)))
    msgspec.convert(values, kind)
    return values


def _bookmark(raw: msgspec.Raw) -> dict[str, Any]:
    item = parse(raw, _Object)
    return {"kind": item.kind, "metadata": {"resourceVersion": item.metadata.resource_version}}


def _bounded(value: Any) -> Any:
    """Return a view with bounded texts and lists, except for a compressed job, which has a bound of its own."""
    if isinstance(value, dict):
        return {name: item if name == "packed" else _bounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bounded(item) for item in value[:_ITEMS]]
    return _clipped(value) if isinstance(value, str) else value


def _clipped(text: str) -> str:
    return text if len(text) <= _TEXT_CHARACTERS else text[: _TEXT_CHARACTERS - 1] + "…"


def _place(meta: _Meta) -> dict[str, str | None]:
    return {"namespace": meta.namespace, "name": meta.name}


def _report(plural: str, content: bytes, why: object) -> None:
    """Log an object that is skipped, with its name."""
    try:
        place = _place(parse(content, _Object).metadata)
    except (msgspec.MsgspecError, RecursionError):
        name = _NAME.search(content)
        place = {"name": name[1].decode() if name else None}
    _log.error("object skipped", kind=plural, **place, why=_clipped(str(why)), bytes=len(content))
    SKIPPED_OBJECTS.labels(kind=plural).inc()
