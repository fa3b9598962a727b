"""What the API server answers, in its own words."""

import asyncio
from typing import Any

import pytest
from promptintern_operator.kube import JOBS, Kube, api_client


def test_a_list_of_nothing_holds_null(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is for kinds that are asked for their metadata only."""
    pages = [{"items": [{"metadata": {"uid": "a"}}], "metadata": {"continue": "more"}}, {"items": None, "metadata": {}}]

    async def answer(*_: object, **__: object) -> Any:
        return pages.pop(0)

    api: Any = None
    kube = Kube(api)
    monkeypatch.setattr(kube, "_request", answer)
    assert asyncio.run(kube.list_uids(JOBS, None, selector="")) == {"a"}


def test_nobody_looks_for_proxies_and_passwords_in_the_environment() -> None:
    async def main() -> None:
        async with api_client() as api, api.rest_client._create_pool_manager() as session:
            assert not session.trust_env

    asyncio.run(main())


def test_fields_that_the_server_does_not_know_are_no_warning_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older KubeRay's definition would drop authOptions, and the cluster would take code from anybody."""
    asked: list[Any] = []

    async def answer(*arguments: object, **more: object) -> Any:
        asked.append((arguments, more))
        return {}

    api: Any = None
    kube = Kube(api)
    monkeypatch.setattr(kube, "_request", answer)
    asyncio.run(kube.create({"kind": "RayJob", "metadata": {"name": "a", "namespace": "b"}}))
    (((method, path, _), more),) = asked
    assert (method, path) == ("POST", "/apis/ray.io/v1/namespaces/b/rayjobs")
    assert more["query"] == [("fieldValidation", "Strict")]
