"""Real S3 servers for the integration tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from promptintern.storage.options import S3Options

from tests.cluster.s3 import NoServer, S3Server


@pytest.fixture(scope="session")
def running_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for all tests of a pytest process."""
    try:
        server = S3Server(tmp_path_factory.mktemp("s3"))
    except NoServer as missing:
        pytest.skip(str(missing))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_server(running_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, with its credentials in the environment."""
    for name, value in running_s3.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    return running_s3


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """The name of a new, empty bucket."""
    return s3_server.create_bucket()


@pytest.fixture
def s3_options(s3_server: S3Server) -> S3Options:
    """Options with which the product reaches the S3 server."""
    return S3Options(endpoint=s3_server.url)


@pytest.fixture
def own_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server for one test, which may kill it; its credentials are in the environment."""
    try:
        server = S3Server(tmp_path / "s3")
    except NoServer as missing:
        pytest.skip(str(missing))
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    yield server
    server.stop()
