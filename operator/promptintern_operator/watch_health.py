"""When each watch was last heard, bookmarks included: a watch can die without anybody being told."""

import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp
import kopf

_LAST_ACTIVITY: dict[str, float] = {}
_WATCHED: set[str] = set()
"""Kinds that were listed or watched."""
_FORBIDDEN: set[str] = set()
"""Kinds that may not be watched now, each in a namespace of its own."""


class _TrackedContent:
    """A response's content; each piece that is read from it is noted."""

    def __init__(self, content: aiohttp.StreamReader, path: str) -> None:
        self._content = content
        self._path = path
        _LAST_ACTIVITY[path] = time.monotonic()

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """As the stream's own."""
        async for piece in self._content.iter_chunked(size):
            _LAST_ACTIVITY[self._path] = time.monotonic()
            yield piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


class TrackedResponse(aiohttp.ClientResponse):
    """A response that notes when a watch says something."""

    async def start(self, connection: Any) -> "TrackedResponse":
        """Begin to read; what arrives from now on is noted."""
        await super().start(connection)
        path = self.url.path
        if not {"watch", "limit"} & set(self.url.query):
            return self
        # Kopf would end for good, and with it the service of everybody. After a broken connection it tries again.
        if self.status == 404:
            # A kind that is not served now: its CRD was removed, or the API server has only just started.
            self.close()
            _drop(path)
            raise aiohttp.ClientConnectionError(f"{path} is not served now")
        if self.status == 403 and "/namespaces/" in path:
            # A namespace that is gone, and our rights with it, or whose Role comes later.
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
    """Seconds since the quietest watch was last heard; 0 before there is any."""
    now = time.monotonic()
    return max((now - moment for moment in _LAST_ACTIVITY.values()), default=0.0)


def are_watched(plurals: Iterable[str], namespace: str | None = None) -> bool:
    """Whether a watch of every kind has begun, in ``namespace`` if it is one of some, so that all that was there is
    listed.
    """
    where = f"/namespaces/{namespace}" if namespace else ""
    return all(any(path.endswith(f"{where}/{plural}") for path in _LAST_ACTIVITY) for plural in plurals)


def is_forbidden(namespace: str) -> bool:
    """Whether some kind may not be watched in ``namespace``."""
    return any(f"/namespaces/{namespace}/" in path for path in _FORBIDDEN)


def is_watched(plural: str) -> bool:
    """Whether Kopf lists or watches the kind, or tried to and may not, the last time that it asked."""
    return any(path.endswith(f"/{plural}") for path in (*_WATCHED, *_FORBIDDEN))


def forget(plural: str) -> None:
    """There is no such kind any more, so a watch of it that ended is not silent."""
    for path in {*_LAST_ACTIVITY, *_WATCHED, *_FORBIDDEN}:
        if path.endswith(f"/{plural}"):
            _drop(path)


def _drop(path: str) -> None:
    _LAST_ACTIVITY.pop(path, None)
    _WATCHED.discard(path)
    _FORBIDDEN.discard(path)


def tracked_session(info: kopf.ConnectionInfo) -> kopf.AiohttpSession:
    """Kopf's connection to the API server, whose watches are listened to."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers={"User-Agent": "promptintern-operator", **info.as_http_headers()},
        response_class=TrackedResponse,
    )
    return kopf.AiohttpSession(
        server=info.server,
        default_namespace=info.default_namespace,
        aiohttp_session=session,
        expiration=info.expiration,
    )
