"""The requests that the operator sends to the API server, through the async client of the kubernetes package."""

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException
from promptintern_api.apply import apply_body
from promptintern_api.contract import OPERATOR
from promptintern_api.kind import GROUP, PLURAL, VERSION

from promptintern_operator.intake import job_view
from promptintern_operator.metrics import API_REQUESTS
from promptintern_operator.parsing import PAGE, PAGE_BYTES, parse, parse_object, read_at_most, smaller, without_items
from promptintern_operator.views import JobView

_MERGE, _JSON = "application/merge-patch+json", "application/json"
_APPLY = "application/apply-patch+yaml; charset=utf-8"
"""The content type of server-side apply. Without the parameter, the client library would encode the body itself."""
_META = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_SECONDS = 30.0
_UID = re.compile(rb'"uid":"([-0-9A-Za-z]{8,64})"')
"""The uid of an object in metadata, where only the name and the namespace come before it."""
T = TypeVar("T")


class RequestFailed(Exception):  # noqa: N818 -- the name says what happened
    """Raised if a request is refused, is not answered or is not sent.

    ``status`` is the HTTP status of the answer, or 0 if there is no answer.
    """

    def __init__(self, message: str, *, status: int, reason: str = "", server_message: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.server_message = server_message
        """The message of the API server without the method and the path of the request, to show to users."""


class _TooLarge(RequestFailed):
    """Raised if an answer is larger than the caller allows."""


@dataclass(frozen=True)
class Resource:
    """A kind of API object."""

    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the path of the kind, or of one of its objects, on the API server."""
        root = "/api" if "/" not in self.api_version else "/apis"
        parts = [root, self.api_version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        return "/".join(filter(None, [*parts, self.plural, name, subresource]))


JOBS = Resource(f"{GROUP}/{VERSION}", PLURAL)
RAY_JOBS = Resource("ray.io/v1", "rayjobs")
PODS = Resource("v1", "pods")
PREFLIGHTS = Resource("batch/v1", "jobs")
KUEUE, WORKLOADS = "kueue.x-k8s.io", "workloads"
"""The group and the plural name of Kueue's Workloads. Their versions come and go, and all have what is read here."""
CONFIG_MAPS = Resource("v1", "configmaps")
EVENTS = Resource("events.k8s.io/v1", "events")
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")

_BY_KIND = {
    "ConfigMap": CONFIG_MAPS,
    "ServiceAccount": Resource("v1", "serviceaccounts"),
    "Role": Resource("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": Resource("rbac.authorization.k8s.io/v1", "rolebindings"),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
    "RayJob": RAY_JOBS,
    "Job": PREFLIGHTS,
}


class _Refusal(msgspec.Struct):
    """The Status of a request that the API server refused."""

    message: str | None = None
    reason: str | None = None


class _Meta(msgspec.Struct):
    uid: str


class _Item(msgspec.Struct):
    metadata: _Meta


class _PageMeta(msgspec.Struct):
    token: str | None = msgspec.field(default=None, name="continue")


class _Page(msgspec.Struct):
    """A page of a listing, of which only the uids are read."""

    metadata: _PageMeta
    items: list[_Item] | None = None


def api_client() -> ApiClient:
    """Return a client of the API server with the default configuration.

    Unlike the library's own client, this client does not read proxies and passwords from the environment. aiohttp would
    read them twice per request, in a thread, which takes longer than the rest of the request. Kopf's watches do not
    read the environment either.
    """
    configuration = Configuration.get_default_copy()
    configuration.client_session_kwargs = {"trust_env": False}
    return ApiClient(configuration)


class Kube:
    """A client of one API server. Every method raises ``RequestFailed`` if its request fails.

    Args:
        api: The underlying client.
        may_write: A function that is called before every request that may change something. If it returns False, the
            request is not sent.
    """

    def __init__(self, api: ApiClient, *, may_write: Callable[[], bool] = lambda: True) -> None:
        self._api = api
        self._may_write = may_write

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Return the object, or None if it does not exist."""
        path = resource.path(namespace, name)
        content = await self._find(path)
        return None if content is None else _readable(parse_object, content, f"GET {path}")

    async def get_job(self, namespace: str, name: str) -> tuple[JobView, dict[str, Any]] | None:
        """Return the view of a PromptInternJob and the whole job, or None if the job does not exist."""
        content = await self._find(JOBS.path(namespace, name))
        if content is None:
            return None
        return _readable(job_view, content, f"job {name}"), _readable(parse_object, content, f"job {name}")

    async def list_uids(self, resource: Resource, namespace: str | None, *, selector: str) -> set[str]:
        """Return the uids of all objects of a kind that match ``selector``, in ``namespace`` or in all namespaces."""
        uids: set[str] = set()
        token, count = "", PAGE
        while True:
            query = [("limit", str(count)), ("labelSelector", selector), ("continue", token)]
            try:
                content = await self._send(
                    "GET",
                    resource.path(namespace),
                    query=[(name, value) for name, value in query if value],
                    only_meta=True,
                    limit=PAGE_BYTES if count > 1 else None,
                )
                page = _uids_of(content, is_single=count == 1)
            except (_TooLarge, msgspec.MsgspecError) as error:
                if count == 1:
                    raise RequestFailed(f"a page of {resource.plural} cannot be read: {error}", status=0) from error
                count = smaller(count)
                continue
            uids |= {item.metadata.uid for item in page.items or []}
            token, count = page.metadata.token or "", PAGE
            if not token:
                return uids

    async def serves(self, resource: Resource) -> bool:
        """Return whether the API server serves ``resource``."""
        path = f"/apis/{resource.api_version}"
        content = await self._find(path)
        group = {} if content is None else _readable(parse_object, content, f"GET {path}")
        return any(kind.get("name") == resource.plural for kind in group.get("resources", []))

    async def preferred(self, group: str, plural: str) -> Resource | None:
        """Return the kind in the version of its group that the API server prefers, or None if it does not serve it."""
        path = f"/apis/{group}"
        content = await self._find(path)
        if content is None:
            return None
        preferred = _readable(parse_object, content, f"GET {path}").get("preferredVersion") or {}
        resource = Resource(f"{group}/{preferred.get('version')}", plural)
        return resource if await self.serves(resource) else None

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
        """Create the object and return it, or return None if its name is taken.

        The request makes the API server reject unknown fields instead of dropping them. Otherwise the CRD of an older
        KubeRay would drop the field that protects the Ray cluster with a token.
        """
        path = _BY_KIND[manifest["kind"]].path(manifest["metadata"]["namespace"])
        try:
            return await self._request("POST", path, manifest, query=[("fieldValidation", "Strict")])
        except RequestFailed as error:
            if error.status == 409 and error.reason == "AlreadyExists":
                return None
            raise

    async def read(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Return the existing object with the kind and the name of ``manifest``.

        The request is an empty patch, which changes nothing and needs no right to read every object of the kind.
        """
        return await self._request("PATCH", _path(manifest), {}, content_type=_MERGE)

    async def apply(self, manifest: Mapping[str, Any], *, uid: str) -> None:
        """Apply ``manifest`` to the object with this uid by server-side apply; fail with 409 if the uid differs."""
        manifest = {**manifest, "metadata": {**manifest["metadata"], "uid": uid}}
        await self._request("PATCH", _path(manifest), manifest, query=_as_manager(), content_type=_APPLY)

    async def remove_annotations(self, body: Mapping[str, Any], *, keep: Container[str]) -> None:
        """Remove the annotations of the object ``body``, except those named in ``keep``."""
        meta = body["metadata"]
        removed = {name: None for name in meta.get("annotations") or {} if name not in keep}
        if removed:
            change = {"metadata": {"uid": meta["uid"], "annotations": removed}}
            await self._request("PATCH", _path(body), change, content_type=_MERGE)

    async def apply_job_status(
        self, namespace: str, name: str, *, uid: str, version: str, status: Mapping[str, Any]
    ) -> JobView:
        """Replace the operator's part of a job's status and return the view of the updated job.

        The request fails with 409 if the job is no longer at resource version ``version``.
        """
        manifest = {
            "apiVersion": JOBS.api_version,
            "kind": "PromptInternJob",
            "metadata": {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": version},
            "status": status,
        }
        path = JOBS.path(namespace, name, "status")
        content = await self._send("PATCH", path, manifest, query=_as_manager(), content_type=_APPLY)
        return _readable(job_view, content, f"job {name}")

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, version: str | None = None
    ) -> None:
        """Delete the object with this uid, and its dependents in the background. A missing object is not an error.

        With ``version``, the object is deleted only if it still has this resource version.
        """
        preconditions = {"uid": uid} | ({"resourceVersion": version} if version is not None else {})
        options = {"propagationPolicy": "Background", "preconditions": preconditions}
        try:
            await self._request("DELETE", resource.path(namespace, name), options)
        except RequestFailed as error:
            if error.status not in (404, 409):  # 409: the name now belongs to another object
                raise

    async def record_event(self, event: Mapping[str, Any]) -> None:
        """Create an Event."""
        await self._request("POST", EVENTS.path(event["metadata"]["namespace"]), event)

    async def _find(self, path: str) -> bytes | None:
        """Return the content at ``path``, or None if nothing is there."""
        try:
            return await self._send("GET", path)
        except RequestFailed as error:
            if error.status == 404:
                return None
            raise

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: list[tuple[str, str]] | None = None,
        content_type: str = _JSON,
    ) -> dict[str, Any]:
        content = await self._send(method, path, body, query=query, content_type=content_type)
        return _readable(parse_object, content, f"{method} {path}")

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: list[tuple[str, str]] | None = None,
        content_type: str = _JSON,
        only_meta: bool = False,
        limit: int | None = None,
    ) -> bytes:
        """Send a request and return the content of the answer, of at most ``limit`` bytes."""
        verb = "APPLY" if content_type == _APPLY else method
        if method != "GET" and not self._may_write():
            raise RequestFailed(
                f"{method} {path}: not sent, because another operator may be the leader by now", status=0
            )
        try:
            prepared = await self._api.param_serialize(
                method,
                path,
                query_params=query or [],
                header_params={"Accept": _META if only_meta else _JSON, "Content-Type": content_type},
                body=apply_body(body) if content_type == _APPLY and body is not None else body,
                auth_settings=["BearerToken"],
            )
            answer = await self._api.call_api(*prepared, _request_timeout=_SECONDS)
            content = await read_at_most(answer.response.content.iter_chunked(2**16), limit)
        except (aiohttp.ClientError, TimeoutError, OSError, ApiException) as error:
            API_REQUESTS.labels(verb=verb, code="0").inc()
            raise RequestFailed(f"{method} {path}: {error or type(error).__name__}", status=0) from error
        API_REQUESTS.labels(verb=verb, code=str(answer.status)).inc()
        if content is None:
            answer.response.close()
            raise _TooLarge(f"{method} {path}: the answer is too large", status=0)
        if not 200 <= answer.status <= 299:
            refusal = _refusal(content)
            message = refusal.message or answer.reason or ""
            raise RequestFailed(
                f"{method} {path}: {answer.status} {message}",
                status=answer.status,
                reason=refusal.reason or "",
                server_message=message,
            )
        return content


def _path(manifest: Mapping[str, Any]) -> str:
    meta = manifest["metadata"]
    return _BY_KIND[manifest["kind"]].path(meta["namespace"], meta["name"])


def _as_manager() -> list[tuple[str, str]]:
    return [("fieldManager", OPERATOR), ("force", "true")]


def _readable(read: Callable[[bytes], T], content: bytes, what: str) -> T:
    """Return ``read(content)``.

    Raises:
        RequestFailed: if the content cannot be read, for example because a tenant has nested it too deep.
    """
    try:
        return read(content)
    except msgspec.MsgspecError as error:
        raise RequestFailed(f"{what}: the answer cannot be read: {error}", status=0) from error


def _uids_of(content: bytes, *, is_single: bool) -> _Page:
    """Return a page of uids. The uid of a single object is found even if the object nests too deep.

    Raises:
        msgspec.MsgspecError: if the page cannot be read.
    """
    try:
        return parse(content, _Page)
    except msgspec.MsgspecError:
        found = _UID.search(content, content.find(b'"items":['))
        if not is_single or found is None:
            raise
        page = parse(without_items(content), _Page)
        return _Page(metadata=page.metadata, items=[_Item(metadata=_Meta(uid=found[1].decode()))])


def _refusal(content: bytes) -> _Refusal:
    """Return the Status with which the API server refused a request, or an empty one if the content is no Status."""
    try:
        return parse(content, _Refusal)
    except msgspec.MsgspecError:
        return _Refusal()
