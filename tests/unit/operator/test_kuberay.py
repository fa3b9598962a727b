"""Detection of KubeRay, with and without the right to read CRDs."""

import asyncio
from typing import Any

import pytest
from promptintern_operator import kuberay
from promptintern_operator.cache import Cache
from promptintern_operator.kube import RequestFailed, Resource
from promptintern_operator.kuberay import MISSING, find_kuberay
from promptintern_operator.queue import Workqueue


class Limited:
    """An API server that does not allow the operator to read CustomResourceDefinitions."""

    def __init__(self, *, served: bool) -> None:
        self._served = served

    async def get(self, *_: object) -> dict[str, Any]:
        raise RequestFailed("forbidden", status=403)

    async def serves(self, _: Resource) -> bool:
        return self._served

    async def preferred(self, group: str, plural: str) -> Resource | None:
        return Resource(f"{group}/v1beta2", plural) if self._served else None


@pytest.mark.parametrize("served", [True, False])
def test_an_operator_that_cannot_read_crds_detects_served_kinds(served: bool) -> None:
    kube: Any = Limited(served=served)
    result = asyncio.run(find_kuberay(kube))
    assert result.usable is served
    assert served or result == MISSING


@pytest.mark.parametrize("unknown", ["rayjobs", "workloads"])
def test_a_served_kind_that_is_not_watched_is_signalled(unknown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kuberay, "_SECONDS", 0)
    monkeypatch.setattr(kuberay, "is_watched", lambda plural: plural != unknown)
    assert asyncio.run(_is_signalled(Limited(served=True)))


def test_kinds_that_are_watched_or_missing_are_not_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kuberay, "_SECONDS", 0)
    monkeypatch.setattr(kuberay, "is_watched", lambda _: False)
    assert not asyncio.run(_is_signalled(Limited(served=False)))
    monkeypatch.setattr(kuberay, "is_watched", lambda _: True)
    assert not asyncio.run(_is_signalled(Limited(served=True)))


async def _is_signalled(kube: Any) -> bool:
    unwatched = asyncio.Event()
    watch = asyncio.create_task(kuberay.watch_kuberay(kube, Cache(), Workqueue(), unwatched=unwatched))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not watch.done()
    watch.cancel()
    return unwatched.is_set()
