"""The whole product on a real Kubernetes: images, chart and tenants."""

import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e import project
from tests.e2e.probes import list_imports_without_bytecode, request_jobs_without_token
from tests.e2e.tenant import SECRET, Team, job_from_example
from tests.e2e.user import BackgroundCommand, Shell
from tests.e2e.watching import QUICKSTART, TWO, TWO_WORKERS, BackgroundWatch, JobHistory, watch_job

pytest_plugins = ["tests.cluster.fixtures"]

_TIMEOUT_SECONDS = 3000
"""Timeout of one test in seconds: the first one may build images and start the cluster."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test of this folder a long timeout, because jobs on two cores are slow."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_SECONDS))


@pytest.fixture(scope="session")
def installed(own_cluster: Cluster) -> Cluster:
    """The cluster, with both images on its node."""
    project.load_images(own_cluster)
    return own_cluster


@pytest.fixture(scope="session")
def team(installed: Cluster) -> Team:
    """A tenant whose bucket is the default storage."""
    team = Team.create(installed, f"team-{secrets.token_hex(3)}")
    project.install(installed, secret=SECRET, bucket=team.account.bucket)
    return team


@pytest.fixture(scope="session")
def shell(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell in which a member of the team uses `promptintern`."""
    return Shell(team, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def first_jobs(team: Team, shell: Shell) -> Iterator[tuple[JobHistory, BackgroundWatch, BackgroundCommand]]:
    """The quickstart after its end, the same job with two workers in training, and the command that follows its log."""
    team.submit(name=QUICKSTART)
    quickstart = watch_job(team, QUICKSTART, seconds=_TIMEOUT_SECONDS)
    shell.submit(job_from_example(name=TWO, **TWO_WORKERS))
    reader = shell.follow_logs(TWO)
    probes = (request_jobs_without_token, list_imports_without_bytecode)
    yield quickstart, BackgroundWatch(partial(watch_job, team, TWO, probes, seconds=_TIMEOUT_SECONDS)), reader
    reader.kill()


@pytest.fixture(scope="session")
def quickstart(first_jobs: tuple[JobHistory, BackgroundWatch, BackgroundCommand]) -> JobHistory:
    """examples/quickstart.yaml without changes, which ran to its end undisturbed."""
    return first_jobs[0]


@pytest.fixture(scope="session")
def two_workers(first_jobs: tuple[JobHistory, BackgroundWatch, BackgroundCommand]) -> JobHistory:
    """The quickstart with two workers, after its end."""
    return first_jobs[1].result()


@pytest.fixture(scope="session")
def followed_logs(
    first_jobs: tuple[JobHistory, BackgroundWatch, BackgroundCommand], two_workers: JobHistory
) -> tuple[int, str]:
    """Exit code and output of `promptintern logs -f` for the job with two workers."""
    return first_jobs[2].result(120)
