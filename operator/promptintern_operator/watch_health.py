"""The responses that Kopf reads: their objects are reduced, and the last activity of each watch is recorded.

Activity includes bookmarks, because a watch can die without an error.
"""

import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, ClassVar

import aiohttp
import kopf
import msgspec
from promptintern_api.contract import OPERATOR

from promptintern_operator.intake import reduce_page, reduce_stream, skip_object
from promptintern_operator.parsing import PAGE_BYTES, read_at_most, smaller

_LAST_ACTIVITY: dict[str, float] = {}
_WATCHED: set[str] = set()
"""The API paths that Kopf lists or watches."""
_FORBIDDEN: set[str] = set()
"""The API paths, each of one kind in one namespace, that the operator may not watch."""


class _TrackedContent:
    """The content of a watch's response; each chunk that is read from the content counts as activity of the watch."""

    def __init__(self, content: aiohttp.StreamReader, path: str) -> None:
        self._content = content
        self._path = path
        _LAST_ACTIVITY[path] = time.monotonic()

    def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Return an iterator over the lines of the stream, with reduced objects."""
        return reduce_stream(_plural(self._path), self._chunks(size))

    async def _chunks(self, size: int) -> AsyncIterator[bytes]:
        async for piece in self._content.iter_chunked(size):
            _LAST_ACTIVITY[self._path] = time.monotonic()
            yield piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


class TrackedResponse(aiohttp.ClientResponse):
    """A response with reduced objects that records the activity of a watch."""

    session: ClassVar[aiohttp.ClientSession | None] = None
    """The session to which the response belongs; each session has its own subclass."""

    async def json(self, **more: Any) -> Any:
        """Return the content as JSON values; the objects of a listing are reduced.

        A page of a listing that is large or nests deep is requested again with fewer objects.
        """
        if self.status != 200 or "limit" not in self.url.query:
            return await super().json(**more)
        plural, count = _plural(self.url.path), int(self.url.query["limit"])
        content = await read_at_most(self.content.iter_chunked(2**16), PAGE_BYTES if count > 1 else None)
        if content is not None:
            try:
                return await reduce_page(plural, content)
            except msgspec.MsgspecError:
                if count == 1:
                    return skip_object(plural, content)
        self.close()
        assert self.session is not None
        async with self.session.get(self.url.update_query(limit=smaller(count))) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def start(self, connection: Any) -> "TrackedResponse":
        """Start to read the response; data that arrives from now on counts as activity of the watch."""
        await super().start(connection)
        path = self.url.path
        if not {"watch", "limit"} & set(self.url.query):
            return self
        # On status 404 or 403, Kopf would end for good, and no job would be reconciled any more. After a broken
        # connection, Kopf tries again.
        if self.status == 404:
            # The kind is not served now: its CRD was removed, or the API server has only just started.
            self.close()
            _drop(path)
            raise aiohttp.ClientConnectionError(f"{path} is not served now")
        if "limit" in self.url.query and (self.status == 410 or self.status >= 500):
            # The listing took too long, or the API server has a moment of weakness.
            self.close()
            raise aiohttp.ClientConnectionError(f"{path} cannot be listed now: {self.status}")
        if self.status == 403 and "/namespaces/" in path:
            # The namespace is gone together with our rights, or our Role in it has not been created yet.
            self.close()
            _drop(path)
            _FORBIDDEN.add(path)
            raise aiohttp.ClientConnectionError(f"{path} may not be watched now")
        if self.status == 200:
            _WATCHED.add(path)
            _FORBIDDEN.discard(path)
        if "watch" in self.url.query:
            self.content = _TrackedContent(self.content, path)  # type: ignore[assignment]
        return self


def silence() -> float:
    """Return for how many seconds the longest-silent watch has been silent, or 0 if there are no watches."""
    now = time.monotonic()
    return max((now - moment for moment in _LAST_ACTIVITY.values()), default=0.0)


def are_watched(plurals: Iterable[str], namespace: str | None = None) -> bool:
    """Return whether a watch of every kind has begun, which means that all existing objects have been listed.

    Args:
        plurals: The plural names of the kinds.
        namespace: The namespace of the watches; None if the whole cluster is watched.
    """
    where = f"/namespaces/{namespace}" if namespace else ""
    return all(any(path.endswith(f"{where}/{plural}") for path in _LAST_ACTIVITY) for plural in plurals)


def is_forbidden(namespace: str) -> bool:
    """Return whether there is a kind that the operator may not watch in ``namespace``."""
    return any(f"/namespaces/{namespace}/" in path for path in _FORBIDDEN)


def is_watched(plural: str) -> bool:
    """Return whether Kopf lists or watches the kind ``plural``, or was denied permission when it last tried."""
    return any(path.endswith(f"/{plural}") for path in (*_WATCHED, *_FORBIDDEN))


def forget(plural: str, *, except_for: str | None = None) -> None:
    """Forget the watches of a kind that is no longer served, or not in this version, so that none counts as silent.

    Args:
        plural: The plural name of the kind.
        except_for: The API version, such as ray.io/v1, whose watches are kept; None if none is.
    """
    for path in {*_LAST_ACTIVITY, *_WATCHED, *_FORBIDDEN}:
        if path.endswith(f"/{plural}") and (except_for is None or f"/{except_for}/" not in path):
            _drop(path)


def _plural(path: str) -> str:
    return path.rpartition("/")[2]


def _drop(path: str) -> None:
    _LAST_ACTIVITY.pop(path, None)
    _WATCHED.discard(path)
    _FORBIDDEN.discard(path)


def tracked_session(info: kopf.ConnectionInfo) -> kopf.AiohttpSession:
    """Return a session for Kopf that records the activity of its watches."""
    response_class: type[TrackedResponse] = type("_Response", (TrackedResponse,), {})
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers={"User-Agent": OPERATOR, **info.as_http_headers()},
        response_class=response_class,
    )
    response_class.session = session
    return kopf.AiohttpSession(
        server=info.server,
        default_namespace=info.default_namespace,
        aiohttp_session=session,
        expiration=info.expiration,
    )
