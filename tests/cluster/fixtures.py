"""Pytest fixtures: name this module in ``pytest_plugins``, or import the fixtures that you use."""

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.cluster import lifecycle
from tests.cluster.api_server import ApiServer
from tests.cluster.cluster import Cluster
from tests.cluster.errors import NoCluster
from tests.cluster.external import ExternalCluster, preferred
from tests.cluster.paths import Tier


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """A real kube-apiserver, shared by all pytest-xdist workers. Each test uses namespaces of its own."""
    yield from _shared("api")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster | ExternalCluster]:
    """A Kubernetes with nodes, KubeRay and an S3 server: the user's cluster, a kind cluster, or one on this machine.

    Only the cluster on this machine has processes that tests may stop; see ``own_cluster``.
    """
    try:
        external = preferred()
    except NoCluster as missing:
        skip_or_fail(missing)
    if external is not None:
        yield external
    else:
        yield from own_cluster_of_this_machine()


@pytest.fixture(scope="session")
def own_cluster() -> Iterator[Cluster]:
    """The cluster on this machine, whose processes tests may stop."""
    yield from own_cluster_of_this_machine()


def own_cluster_of_this_machine() -> Iterator[Cluster]:
    """The node tier, shared by all pytest-xdist workers."""
    for cluster in _shared("node"):
        assert isinstance(cluster, Cluster)
        yield cluster


def _shared(tier: Tier) -> Iterator[ApiServer]:
    try:
        with lifecycle.shared(tier) as cluster:
            yield cluster
    except NoCluster as missing:
        skip_or_fail(missing)


def skip_or_fail(missing: NoCluster) -> NoReturn:
    """Skip the test because of what this machine lacks, or fail it if no test may be skipped."""
    if os.environ.get("PROMPTINTERN_REQUIRE_CLUSTER"):
        raise missing
    pytest.skip(str(missing))
