"""The whole product on a real Kubernetes: images, chart, tenants."""

import secrets
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e import project
from tests.e2e.tenant import SECRET, Team

pytest_plugins = ["tests.cluster.fixtures"]

_SECONDS = 3000
"""Of one test: the first one may build images and start the cluster."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Jobs on two cores take their time."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(_SECONDS))


@pytest.fixture(scope="session")
def installed(own_cluster: Cluster) -> Cluster:
    """The cluster, whose node has both images."""
    project.load_images(own_cluster)
    return own_cluster


@pytest.fixture(scope="session")
def team(installed: Cluster) -> Team:
    """A tenant whose bucket is the default storage."""
    team = Team.found(installed, f"team-{secrets.token_hex(3)}")
    project.install(installed, secret=SECRET, bucket=team.account.bucket)
    return team


@pytest.fixture(scope="session")
def quickstart(team: Team) -> str:
    """examples/quickstart.yaml, run to its end with nobody disturbing it; what was seen is in ``team.seen``."""
    name = team.submit("quickstart")
    team.seen += team.watch(name, seconds=_SECONDS)
    return name
