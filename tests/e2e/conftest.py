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
def begun(team: Team) -> dict[str, Followed]:
    """examples/quickstart.yaml, by itself and with two workers, at the same time: one worker keeps one core busy.

    The job whose head is deleted comes to them, if its test is the first.
    """
    team.submit(name=QUICKSTART)
    team.submit(name=TWO, **TWO_WORKERS)
    looks = (asked_without_token, imported_without_bytecode)
    return {
        QUICKSTART: Followed(partial(follow, team, QUICKSTART, seconds=_SECONDS)),
        TWO: Followed(partial(follow, team, TWO, looks, seconds=_SECONDS)),
    }


@pytest.fixture(scope="session")
def quickstart(begun: dict[str, Followed]) -> Seen:
    """examples/quickstart.yaml as it is, run to its end with nobody disturbing it."""
    return begun[QUICKSTART].result()


@pytest.fixture(scope="session")
def two(begun: dict[str, Followed]) -> Seen:
    """The same in two workers."""
    return begun[TWO].result()
