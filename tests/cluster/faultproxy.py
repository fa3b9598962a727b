"""An HTTP proxy between a client and a real server that injects faults."""

import hashlib
import http.client
import itertools
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "expect",
    "te",
    "trailer",
    "upgrade",
    "proxy-connection",
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """The properties of a request on which a plan of faults decides."""

    number: int
    """The request's number over all connections, from 1."""
    method: str
    target: str
    """Path and query string."""
    size: int
    """Size of the body in bytes."""
    exclusive: bool
    """Whether the request has an If-None-Match header."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The headers, by their names in lower case."""


@dataclass(frozen=True, kw_only=True)
class Fail:
    """Respond with an error without asking the server."""

    status: int = 503
    code: str = "InternalError"
    message: str = "on purpose"


@dataclass(frozen=True)
class CutUpload:
    """Send the server half of the body, then break both connections."""


@dataclass(frozen=True)
class ShortenUpload:
    """Send the server half of the body as if it were complete, and return its response."""


@dataclass(frozen=True)
class Swallow:
    """Report success to the client without asking the server."""


@dataclass(frozen=True)
class LoseAnswer:
    """Let the server process the request, and break the connection instead of responding."""


@dataclass(frozen=True)
class CutDownload:
    """Return half of the response's body, then break the connection."""


@dataclass(frozen=True, kw_only=True)
class Delay:
    """Wait, then forward the request."""

    seconds: float


Fault = Fail | CutUpload | ShortenUpload | Swallow | LoseAnswer | CutDownload | Delay
Plan = Callable[[Request], Fault | None]


def every_third(request: Request) -> Fault | None:
    """Fail every third request, with status 500 and 503 in turn."""
    return Fail(status=500 if request.number % 2 else 503) if request.number % 3 == 0 else None


def every(period: int, fault: Fault, *, when: Callable[[Request], bool] = lambda _request: True) -> Plan:
    """Inject ``fault`` into one in ``period`` of the requests for which ``when`` is true, beginning with the first."""
    picked = itertools.count()
    return lambda request: fault if when(request) and next(picked) % period == 0 else None


class FaultProxy:
    """A server on a port of ``host`` that forwards requests to ``upstream`` with the faults of ``plan``."""

    def __init__(self, upstream: str, plan: Plan | None = None, *, host: str = "127.0.0.1") -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        self.plan: Plan = plan or (lambda _request: None)
        self.faults: list[tuple[Request, Fault]] = []
        """The faults that were injected so far."""
        self._numbers = itertools.count(1)
        self._server = ThreadingHTTPServer((host, 0), _handler(self, parts.hostname, parts.port or 80))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def decide(self, method: str, target: str, size: int, headers: Mapping[str, str]) -> Fault | None:
        """Choose the fault for the next request, and record it."""
        request = Request(
            number=next(self._numbers),
            method=method,
            target=target,
            size=size,
            exclusive="if-none-match" in headers,
            headers=headers,
        )
        fault = self.plan(request)
        if fault is not None:
            self.faults.append((request, fault))
        return fault


def _handler(proxy: FaultProxy, host: str, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            fault = proxy.decide(self.command, self.path, len(body), headers)
            match fault:
                case Fail(status=status, code=code, message=message):
                    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
                    self._answer(status, [("Content-Type", "application/xml")], text.encode())
                case Swallow():
                    etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
                    self._answer(200, [("ETag", f'"{etag}"')], b"")
                case CutUpload():
                    self._send_half(body)
                    self._break()
                case _:
                    if isinstance(fault, Delay):
                        time.sleep(fault.seconds)
                    sent = body[: len(body) // 2] if isinstance(fault, ShortenUpload) else body
                    self._forward(sent, fault)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 -- http.server's names

        def _forward(self, body: bytes, fault: Fault | None) -> None:
            connection = http.client.HTTPConnection(host, port, timeout=60)
            try:
                self._put_request(connection, len(body))
                connection.send(body)
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException):
                self._break()
                return
            finally:
                connection.close()
            if isinstance(fault, LoseAnswer):
                self._break()
                return
            headers = [(k, v) for k, v in response.getheaders() if k.lower() not in _HOP_BY_HOP]
            if isinstance(fault, CutDownload):
                self._answer(response.status, headers, content[: len(content) // 2], announced=len(content))
                self._break()
            else:
                self._answer(response.status, headers, content)

        def _send_half(self, body: bytes) -> None:
            connection = http.client.HTTPConnection(host, port, timeout=60)
            try:
                self._put_request(connection, len(body))
                connection.send(body[: len(body) // 2])
            except OSError:
                pass  # a server that is down breaks the upload as well
            finally:
                connection.close()

        def _put_request(self, connection: http.client.HTTPConnection, size: int) -> None:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {*_HOP_BY_HOP, "content-length"}:
                    connection.putheader(name, value)
            if size or "Content-Length" in self.headers:
                connection.putheader("Content-Length", str(size))
            connection.endheaders()

        def _answer(
            self, status: int, headers: list[tuple[str, str]], content: bytes, announced: int | None = None
        ) -> None:
            self.send_response_only(status)
            lengths = [v for k, v in headers if k.lower() == "content-length"]
            for name, value in headers:
                if name.lower() != "content-length":
                    self.send_header(name, value)
            # The response to HEAD announces the object's size and has no body.
            length = lengths[0] if self.command == "HEAD" and lengths else str(announced or len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _break(self) -> None:
            self.close_connection = True
            try:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client has already closed the connection

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- http.server's name
            pass

    return Handler
