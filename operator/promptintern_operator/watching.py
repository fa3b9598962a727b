"""When each watch was last heard, bookmarks included: a watch can die without anybody being told."""

import time
from typing import Any

import aiohttp
import kopf

_WATCHES: dict[str, float] = {}


class HeardResponse(aiohttp.ClientResponse):
    """A response that notes when a watch says something."""

    async def start(self, connection: Any) -> "HeardResponse":
        """Begin to read; what arrives from now on is noted."""
        await super().start(connection)
        if "watch" in self.url.query:
            _Ear(self.url.path).listen(self.content)
        return self


class _Ear:
    def __init__(self, path: str) -> None:
        self._path = path

    def listen(self, content: aiohttp.StreamReader) -> None:
        _WATCHES[self._path] = time.monotonic()
        feed = content.feed_data

        def heard(data: bytes, *more: Any) -> Any:
            _WATCHES[self._path] = time.monotonic()
            return feed(data, *more)

        content.feed_data = heard  # type: ignore[method-assign, assignment]


def silence() -> float:
    """Seconds since the quietest watch was last heard; 0 before there is any."""
    now = time.monotonic()
    return max((now - heard for heard in _WATCHES.values()), default=0.0)


def forget_watches() -> None:
    """Watches that were stopped on purpose are not silent."""
    _WATCHES.clear()


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
