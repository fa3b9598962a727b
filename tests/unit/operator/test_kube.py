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


@pytest.mark.parametrize("metadata_last", [True, False])
def test_an_object_that_nests_too_deep_keeps_its_place_in_a_list_of_uids(
    monkeypatch: pytest.MonkeyPatch, metadata_last: bool
) -> None:
    """Otherwise a tenant's object would end the resync, or hide that other objects are gone."""
    deep = '{"f:a":' * 20_000 + "{}" + "}" * 20_000
    meta = {
        name: f'{{"metadata":{{"name":"{name}","namespace":"a","uid":"uid-of-{name}","x":MORE}}}}' for name in "abcde"
    }
    objects = [meta[name].replace("MORE", deep if name == "c" else "{}") for name in "abcde"]
    requested: list[tuple[int, int]] = []

    async def answer(*_: object, query: list[tuple[str, str]], **__: object) -> bytes:
        asked = dict(query)
        start, count = int(asked.get("continue") or 0), int(asked["limit"])
        requested.append((start, count))
        rest = f',"continue":"{start + count}"' if start + count < len(objects) else ""
        listed, about = (
            f'"items":[{",".join(objects[start : start + count])}]',
            f'"metadata":{{"resourceVersion":"9"{rest}}}',
        )
        inner = (
            f'{listed},"kind":"PartialObjectMetadataList",{about}' if metadata_last else f'"kind":"X",{about},{listed}'
        )
        return f"{{{inner}}}".encode()

    api: Any = None
    kube = Kube(api)
    monkeypatch.setattr(kube, "_send", answer)
    assert asyncio.run(kube.list_uids(JOBS, None, selector="")) == {f"uid-of-{name}" for name in "abcde"}
    assert requested[:2] == [(0, 50), (0, 7)]


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
