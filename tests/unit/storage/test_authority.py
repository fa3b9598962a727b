"""An S3 server with a private certificate authority."""

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from promptintern.errors import InfrastructureFailed, UserError
from promptintern.storage.options import S3Options
from promptintern.storage.retry import RetryPolicy
from promptintern.storage.store import open_store
from promptintern_api.contract import ENV_STORAGE_CA

from tests.cluster.certificates import Authority
from tests.cluster.errors import NoCluster

NO_BUCKET = b"<Error><Code>NoSuchBucket</Code><Message>no such bucket</Message></Error>"


class NoBucket(BaseHTTPRequestHandler):
    """An S3 server without buckets. A client that gets this error has connected successfully."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(NO_BUCKET)))
        self.end_headers()
        self.wfile.write(NO_BUCKET)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    try:
        return Authority(tmp_path / "ca")
    except NoCluster as missing:  # openssl is not installed
        pytest.skip(str(missing))


@pytest.fixture
def endpoint(authority: Authority) -> Iterator[str]:
    pair = authority.issue("s3", user="s3", hosts=["IP:127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), NoBucket)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)


def _list(endpoint: str) -> None:
    s3 = S3Options(endpoint=endpoint, region="us-east-1")
    open_store("s3://bucket/x", s3=s3, policy=RetryPolicy(deadline=0)).list()


def test_the_authority_of_the_secret_is_believed(
    endpoint: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_STORAGE_CA, str(authority.own.certificate))
    with pytest.raises(UserError, match="no such bucket"):
        _list(endpoint)


def test_without_one_the_server_is_not_believed(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_STORAGE_CA, str(tmp_path / "a Secret without that key"))
    with pytest.raises(InfrastructureFailed, match="certificate verify failed"):
        _list(endpoint)
