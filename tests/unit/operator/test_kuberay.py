"""Whether KubeRay is there, where the operator may look and where it may not."""

import asyncio
from typing import Any

import pytest
from promptintern_operator.kube import RequestFailed, Resource
from promptintern_operator.kuberay import MISSING, find_kuberay


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
