"""Whether KubeRay is there, where the operator may look and where it may not."""

import asyncio
from typing import Any

import pytest
from promptintern_operator import kuberay
from promptintern_operator.cache import Cache
from promptintern_operator.kube import RequestFailed, Resource
from promptintern_operator.kuberay import MISSING, find_kuberay
from promptintern_operator.queue import Workqueue


class Limited:
    """An API server that lets the operator look at no CustomResourceDefinition."""

    def __init__(self, *, served: bool) -> None:
        self._served = served

    async def get(self, *_: object) -> dict[str, Any]:
        raise RequestFailed("forbidden", status=403)

    async def serves(self, _: Resource) -> bool:
        return self._served


@pytest.mark.parametrize("served", [True, False])
def test_an_operator_that_may_not_look_sees_what_is_served(served: bool) -> None:
    kube: Any = Limited(served=served)
    found = asyncio.run(find_kuberay(kube))
    assert found.usable is served
    assert served or found == MISSING


@pytest.mark.parametrize("unknown", ["rayjobs", "workloads"])
def test_a_kind_that_came_later_and_is_not_watched_is_told(unknown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kuberay, "_SECONDS", 0)
    monkeypatch.setattr(kuberay, "is_watched", lambda plural: plural != unknown)
    told = asyncio.run(_is_told(Limited(served=True)))
    assert told


def test_kinds_that_are_watched_or_not_there_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kuberay, "_SECONDS", 0)
    monkeypatch.setattr(kuberay, "is_watched", lambda _: False)
    assert not asyncio.run(_is_told(Limited(served=False)))
    monkeypatch.setattr(kuberay, "is_watched", lambda _: True)
    assert not asyncio.run(_is_told(Limited(served=True)))


async def _is_told(kube: Any) -> bool:
    unwatched = asyncio.Event()
    watch = asyncio.create_task(kuberay.watch_kuberay(kube, Cache(), Workqueue(), unwatched=unwatched))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not watch.done()
    watch.cancel()
    return unwatched.is_set()
