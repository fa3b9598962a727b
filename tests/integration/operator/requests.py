"""Requests to the API server as its administrator, without a process per request."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from promptintern_operator.parsing import prune

from tests.cluster.api_server import ApiServer

Body = dict[str, Any]

MERGE = "application/merge-patch+json"
JOBS = "/apis/promptintern.dev/v1alpha1/namespaces/{}/promptinternjobs"
RAY_JOBS = "/apis/ray.io/v1/namespaces/{}/rayjobs"
PREFLIGHTS = "/apis/batch/v1/namespaces/{}/jobs"
PODS = "/api/v1/namespaces/{}/pods"
EVENTS = "/apis/events.k8s.io/v1/namespaces/{}/events"
CHILDREN = (
    RAY_JOBS,
    PREFLIGHTS,
    PODS,
    *("/api/v1/namespaces/{}/configmaps", "/api/v1/namespaces/{}/serviceaccounts"),
    "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
)
"""The kinds of a job's dependents."""


def loads(content: bytes) -> Any:
    """Parse JSON that may nest deeper than Python's parser follows; what is nested very deep is left out."""
    try:
        return json.loads(content)
    except RecursionError:
        return json.loads(prune(content))


class Refused(Exception):  # noqa: N818 -- reads as what happened
    """The API server's refusal."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


def administrator(server: ApiServer) -> ssl.SSLContext:
    """Return an SSL context with the administrator's certificate."""
    authority = server.control_plane.authority
    pair = authority.issue("client-tests", user="tests", groups=["system:masters"])
    context = ssl.create_default_context(cafile=str(authority.own.certificate))
    context.load_cert_chain(str(pair.certificate), str(pair.key))
    return context


class Requests:
    """A client that takes the paths above, without the server."""

    def __init__(self, url: str, context: ssl.SSLContext, token: str | None = None) -> None:
        """``token`` authenticates the requests if the context has no client certificate."""
        self._url, self._context = url, context
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, kind: str = "application/json"
    ) -> Body:
        """Send one request and return the response.

        Raises:
            Refused: if the answer is an error.
            OSError: if there is none.
        """
        return self.ask_raw(method, path, None if body is None else json.dumps(body).encode(), kind)

    def ask_raw(self, method: str, path: str, data: bytes | None, kind: str) -> Body:
        """Send one request with a body that is already encoded, and return the response.

        Raises:
            Refused: if the answer is an error.
            OSError: if there is none.
        """
        headers = {"Content-Type": kind, **self._headers}
        request = urllib.request.Request(self._url + path, method=method, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=30) as answer:
                return dict(loads(answer.read()))
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            message = json.loads(text).get("message") if text.startswith("{") else text
            raise Refused(error.code, str(message)) from None

    def find(self, path: str) -> Body | None:
        """Return the object, or None if it does not exist."""
        try:
            return self.ask("GET", path)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str, selector: str = "") -> list[Body]:
        """Return a listing, which is empty if the kind is not served."""
        listing = self.find(f"{path}?labelSelector={selector}")
        return list(listing["items"]) if listing else []

    def merge(self, path: str, patch: Mapping[str, Any]) -> Body:
        """Merge ``patch`` into the object."""
        return self.ask("PATCH", path, patch, MERGE)
