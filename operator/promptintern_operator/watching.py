"""When each watch was last heard, bookmarks included: a watch can die without anybody being told."""

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import aiohttp
import kopf

_WATCHES: dict[str, float] = {}
_SERVED: set[str] = set()
"""Kinds that were listed or watched."""


class _Heard:
    """A response's content; each piece that is read from it is noted."""

    def __init__(self, content: aiohttp.StreamReader, path: str) -> None:
        self._content = content
        self._path = path
        _WATCHES[path] = time.monotonic()

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """As the stream's own."""
        async for piece in self._content.iter_chunked(size):
            _WATCHES[self._path] = time.monotonic()
            yield piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


class HeardResponse(aiohttp.ClientResponse):
    """A response that notes when a watch says something."""

    async def start(self, connection: Any) -> "HeardResponse":
        """Begin to read; what arrives from now on is noted."""
        await super().start(connection)
        if self.status == 404 and {"watch", "limit"} & set(self.url.query):
            # A kind that is not served now: its CRD was removed, or the API server has only just started. Kopf would
            # end for good. After a broken connection it tries again, until it sees that the CRD is gone.
            self.close()
            _WATCHES.pop(self.url.path, None)
            _SERVED.discard(self.url.path)
            raise aiohttp.ClientConnectionError(f"{self.url.path} is not served now")
        if self.status == 200 and {"watch", "limit"} & set(self.url.query):
            _SERVED.add(self.url.path)
        if "watch" in self.url.query:
            self.content = _Heard(self.content, self.url.path)  # type: ignore[assignment]
        return self


def silence() -> float:
    """Seconds since the quietest watch was last heard; 0 before there is any."""
    now = time.monotonic()
    return max((now - heard for heard in _WATCHES.values()), default=0.0)


def heard(plurals: Iterable[str], namespaces: Sequence[str] = ()) -> bool:
    """Whether a watch of every kind has begun, in each of ``namespaces`` if there are any, so that all that was there
    is listed.
    """
    ends = [f"/{plural}" for plural in plurals]
    if namespaces:
        ends = [f"/namespaces/{namespace}{end}" for namespace in namespaces for end in ends]
    return all(any(path.endswith(end) for path in _WATCHES) for end in ends)


def is_served(plural: str) -> bool:
    """Whether Kopf lists or watches the kind, or did the last time that it asked."""
    return any(path.endswith(f"/{plural}") for path in _SERVED)


def forget(plural: str) -> None:
    """There is no such kind any more, so a watch of it that ended is not silent."""
    for path in [path for path in {*_WATCHES, *_SERVED} if path.endswith(f"/{plural}")]:
        _WATCHES.pop(path, None)
        _SERVED.discard(path)


def listening_session(info: kopf.ConnectionInfo) -> kopf.AiohttpSession:
    """Kopf's connection to the API server, whose watches are listened to."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers={"User-Agent": "promptintern-operator", **info.as_http_headers()},
        response_class=HeardResponse,
    )
    return kopf.AiohttpSession(
        server=info.server,
        default_namespace=info.default_namespace,
        aiohttp_session=session,
        expiration=info.expiration,
    )
