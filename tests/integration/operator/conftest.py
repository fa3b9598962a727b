"""The operator as a process, with the chart's own rights, on a real API server. KubeRay and kubelets are fakes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.errors import NoCluster
from tests.integration.operator.place import Place, Tenant, place_in
from tests.integration.operator.process import Operator


def place_or_skip(folder: Path) -> Iterator[Place]:
    """Yield a place below ``folder``, or skip the tests if there are no programs for it."""
    try:
        with place_in(folder) as place:
            yield place
    except NoCluster as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A separate API server for these tests, which they may stop. Each file ends the operators that it starts."""
    yield from place_or_skip(tmp_path_factory.mktemp("operator"))


@pytest.fixture(scope="module")
def operator(place: Place) -> Iterator[Operator]:
    """One operator for all tests of a file; it must exit cleanly, without an unexpected error."""
    process = place.operator()
    process.start()
    process.wait_until_leading(40)
    yield process
    assert process.stop() == 0
    assert not [line for line in process.text().splitlines() if "Traceback" in line]


@pytest.fixture
def team(place: Place) -> Tenant:
    """A separate namespace for this test."""
    return place.namespace()
