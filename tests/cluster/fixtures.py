"""Pytest fixtures: name this module in ``pytest_plugins``, or import what you use."""

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.cluster import lifecycle
from tests.cluster.api_server import ApiServer
from tests.cluster.cluster import Cluster
from tests.cluster.errors import NoCluster
from tests.cluster.foreign import ForeignCluster, preferred
from tests.cluster.places import Tier


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """A real kube-apiserver, shared by the workers of a run. Tests keep apart by namespace."""
    yield from _shared("api")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster | ForeignCluster]:
    """A Kubernetes with nodes, KubeRay and an S3 server: the user's own, kind's, or this machine's, whichever is there.

    Faults of the machine's own processes are for this machine's alone; see ``own_cluster``.
    """
    try:
        foreign = preferred()
    except NoCluster as missing:
        _not_here(missing)
    if foreign is not None:
        yield foreign
    else:
        yield from own_cluster_of_this_machine()


@pytest.fixture(scope="session")
def own_cluster() -> Iterator[Cluster]:
    """This machine's own, whose processes may be stopped."""
    yield from own_cluster_of_this_machine()


def own_cluster_of_this_machine() -> Iterator[Cluster]:
    """The node tier, shared by the workers of a run."""
    for found in _shared("node"):
        assert isinstance(found, Cluster)
        yield found


def _shared(tier: Tier) -> Iterator[ApiServer]:
    try:
        with lifecycle.shared(tier) as cluster:
            yield cluster
    except NoCluster as missing:
        _not_here(missing)


def _not_here(missing: NoCluster) -> NoReturn:
    if os.environ.get("PROMPTINTERN_REQUIRE_CLUSTER"):
        raise missing
    pytest.skip(str(missing))
