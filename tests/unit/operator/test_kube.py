"""Responses of the API server, and what the operator sends to it."""

import asyncio
import json
from typing import Any

import pytest
from promptintern_operator.kube import JOBS, Kube, api_client


def test_an_empty_list_may_be_null(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server does so for lists of metadata only."""
    pages = [{"items": [{"metadata": {"uid": "a"}}], "metadata": {"continue": "more"}}, {"items": None, "metadata": {}}]

    async def answer(*_: object, **__: object) -> bytes:
        return json.dumps(pages.pop(0)).encode()

    api: Any = None
    kube = Kube(api)
    monkeypatch.setattr(kube, "_send", answer)
    assert asyncio.run(kube.list_uids(JOBS, None, selector="")) == {"a"}


def test_the_client_reads_no_proxies_or_passwords_from_the_environment() -> None:
    async def main() -> None:
        async with api_client() as api, api.rest_client._create_pool_manager() as session:
            assert not session.trust_env

    asyncio.run(main())


def test_unknown_fields_are_rejected_instead_of_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The definition of an older KubeRay would drop authOptions, and the cluster would run anybody's code."""
    requests: list[Any] = []

    async def answer(*arguments: object, **more: object) -> Any:
        requests.append((arguments, more))
        return {}

    api: Any = None
    kube = Kube(api)
    monkeypatch.setattr(kube, "_request", answer)
    asyncio.run(kube.create({"kind": "RayJob", "metadata": {"name": "a", "namespace": "b"}}))
    (((method, path, _), more),) = requests
    assert (method, path) == ("POST", "/apis/ray.io/v1/namespaces/b/rayjobs")
    assert more["query"] == [("fieldValidation", "Strict")]
