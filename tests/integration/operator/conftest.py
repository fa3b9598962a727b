"""The operator as a process, with the chart's own rights, on a real API server. KubeRay and kubelets are fakes."""

from collections.abc import Iterator

import pytest

from tests.cluster.errors import NoCluster
from tests.integration.operator.place import Place, Tenant, place_in
from tests.integration.operator.process import Operator


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An API server of these tests' own, which is stopped at will. Each file ends the operators that it starts."""
    try:
        with place_in(tmp_path_factory.mktemp("operator")) as made:
            yield made
    except NoCluster as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def operator(place: Place) -> Iterator[Operator]:
    """One for all tests of a file; it ends well, and has met nothing unforeseen."""
    found = place.operator()
    found.start()
    found.wait_until_leading(40)
    yield found
    assert found.stop() == 0
    assert not [line for line in found.text().splitlines() if "Traceback" in line]


@pytest.fixture
def team(place: Place) -> Tenant:
    """A namespace of this test's own."""
    return place.namespace()
