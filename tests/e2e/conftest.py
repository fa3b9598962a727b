"""The whole product on a real Kubernetes: images, chart, tenants."""

import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e import project
from tests.e2e.begun import QUICKSTART, TWO, TWO_WORKERS, Followed, Seen, follow
from tests.e2e.inside import asked_without_token, imported_without_bytecode
from tests.e2e.tenant import SECRET, Team, job_like
from tests.e2e.user import Following, Shell

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
def shell(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Where a member of the team types `promptintern`."""
    return Shell(team, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def begun(team: Team, shell: Shell) -> Iterator[tuple[Seen, Followed, Following]]:
    """The quickstart at its end; the same in two workers, which train meanwhile; and who reads their log."""
    team.submit(name=QUICKSTART)
    quickstart = follow(team, QUICKSTART, seconds=_SECONDS)
    shell.submit(job_like(name=TWO, **TWO_WORKERS))
    reader = shell.follow_logs(TWO)
    looks = (asked_without_token, imported_without_bytecode)
    yield quickstart, Followed(partial(follow, team, TWO, looks, seconds=_SECONDS)), reader
    reader.kill()


@pytest.fixture(scope="session")
def quickstart(begun: tuple[Seen, Followed, Following]) -> Seen:
    """examples/quickstart.yaml as it is, run to its end with nobody disturbing it."""
    return begun[0]


@pytest.fixture(scope="session")
def two(begun: tuple[Seen, Followed, Following]) -> Seen:
    """The same in two workers."""
    return begun[1].result()


@pytest.fixture(scope="session")
def read(begun: tuple[Seen, Followed, Following], two: Seen) -> tuple[int, str]:
    """How `promptintern logs -f` of the job in two workers ended, and what it showed."""
    return begun[2].result(120)
