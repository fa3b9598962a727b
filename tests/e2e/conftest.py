"""The whole product on a real Kubernetes: images, chart, tenants."""

import secrets
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e import project
from tests.e2e.begun import QUICKSTART, TWO, TWO_WORKERS, Followed, Seen, follow
from tests.e2e.inside import asked_without_token, imported_without_bytecode
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
def begun(team: Team) -> tuple[Seen, Followed]:
    """The quickstart at its end, and the same in two workers, which train while the first is looked at."""
    team.submit(name=QUICKSTART)
    quickstart = follow(team, QUICKSTART, seconds=_SECONDS)
    team.submit(name=TWO, **TWO_WORKERS)
    looks = (asked_without_token, imported_without_bytecode)
    return quickstart, Followed(partial(follow, team, TWO, looks, seconds=_SECONDS))


@pytest.fixture(scope="session")
def quickstart(begun: tuple[Seen, Followed]) -> Seen:
    """examples/quickstart.yaml as it is, run to its end with nobody disturbing it."""
    return begun[0]


@pytest.fixture(scope="session")
def two(begun: tuple[Seen, Followed]) -> Seen:
    """The same in two workers."""
    return begun[1].result()
