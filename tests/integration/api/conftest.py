"""The CRD on a real API server, a namespace per file, and one connection for requests that are too many for kubectl."""

import http.client
import json
import ssl
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.cluster import fixtures
from tests.cluster.api_server import ApiServer

api_server = fixtures.api_server

CRD = Path(__file__).parents[3] / "crds" / "promptinternjobs.promptintern.dev.yaml"

Judge = Callable[[dict[str, Any]], tuple[int, str, dict[str, Any]]]
"""A function from a job to the server's status code, its message, and the object that it would store."""


@pytest.fixture(scope="session")
def server(api_server: ApiServer) -> ApiServer:
    """The API server with the CRD installed."""
    api_server.install_crds(CRD)
    return api_server


@pytest.fixture(scope="module")
def namespace(server: ApiServer) -> str:
    """A namespace for the tests of one file."""
    name = f"api-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", name)
    return name


@pytest.fixture(scope="module")
def judge(server: ApiServer, namespace: str) -> Iterator[Judge]:
    """A function that creates a job as a dry run."""
    yield from _judge(server, namespace, "POST", "application/json")


@pytest.fixture(scope="module")
def apply_judge(server: ApiServer, namespace: str) -> Iterator[Judge]:
    """A function that applies a job on the server side as a dry run."""
    yield from _judge(server, namespace, "PATCH", "application/apply-patch+yaml")


def _judge(server: ApiServer, namespace: str, method: str, content_type: str) -> Iterator[Judge]:
    """Yield a function that sends a job as a dry run over one connection, with strict validation as kubectl does."""
    authority = server.control_plane.authority
    pair = authority.issue("client-judge", user="judge", groups=["system:masters"])
    context = ssl.create_default_context(cafile=str(authority.own.certificate))
    context.load_cert_chain(pair.certificate, pair.key)
    connection = http.client.HTTPSConnection(server.url.removeprefix("https://"), context=context, timeout=60)
    jobs = f"/apis/promptintern.dev/v1alpha1/namespaces/{namespace}/promptinternjobs"

    def send(document: dict[str, Any]) -> tuple[int, str, dict[str, Any]]:
        path = jobs if method == "POST" else f"{jobs}/{quote(document['metadata']['name'], safe='')}"
        query = "dryRun=All&fieldValidation=Strict&fieldManager=kubectl"
        connection.request(
            method, f"{path}?{query}", json.dumps(document, ensure_ascii=False).encode(), {"Content-Type": content_type}
        )
        response = connection.getresponse()
        body = json.loads(response.read())
        return response.status, body.get("message", ""), body

    yield send
    connection.close()
