"""A machine that cannot run a node is refused before anything is built, and unused clusters are ended."""

import os
from pathlib import Path

import pytest

from tests.cluster import cluster, lifecycle, programs
from tests.cluster.errors import NoCluster
from tests.cluster.external import VARIABLE, preferred
from tests.cluster.processes import start_time


@pytest.fixture(autouse=True)
def separate_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep these tests away from the machine's real cluster."""
    monkeypatch.setenv("PROMPTINTERN_CLUSTER_HOME", str(tmp_path))


def fail(*_: object) -> None:
    raise AssertionError("nothing may be built here")


def test_a_node_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "build", fail)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NoCluster, match="no root; run as root on a Linux machine"):
        lifecycle.up("node")


@pytest.mark.parametrize(
    ("effective", "missing"),
    [
        (0x1FFFFFFFFFF, []),
        (0xA80425FB, ["CAP_NET_ADMIN (networks)", "CAP_SYS_ADMIN (mounts)"]),  # root in a container by default
    ],
)
def test_root_in_a_container_may_lack_capabilities(effective: int, missing: list[str]) -> None:
    assert cluster.lacking_capabilities(effective) == missing


def test_a_home_that_is_too_long_for_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "build", fail)
    monkeypatch.setattr(cluster, "missing_capabilities", list)
    monkeypatch.setenv("PROMPTINTERN_CLUSTER_HOME", str(tmp_path / ("x" * 100)))
    with pytest.raises(NoCluster, match="PROMPTINTERN_CLUSTER_HOME"):
        lifecycle.up("node")


def test_without_a_cluster_find_and_down_do_nothing() -> None:
    assert lifecycle.find("api") is None
    lifecycle.down("api")
    lifecycle.down("node")


def test_a_missing_kubeconfig_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/nowhere/kubeconfig")
    with pytest.raises(NoCluster, match="/nowhere/kubeconfig"):
        preferred()


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the clusters that were ended."""
    folders: list[Path] = []
    monkeypatch.setattr(cluster.Cluster, "down", lambda self: folders.append(self.home))
    return folders


@pytest.mark.parametrize(
    ("kept", "holder", "ends"),
    [
        (False, None, True),
        (False, "1-0-x", True),  # a process of that pid runs, but it started at another time
        (False, f"{os.getpid()}-{start_time(os.getpid())}-x", False),
        (True, None, False),
    ],
    ids=("no holder", "a holder that has ended", "a holder that runs", "kept"),  # the same in every worker of xdist
)
def test_a_cluster_ends_when_nobody_uses_it(
    kept: bool, holder: str | None, ends: bool, tmp_path: Path, ended: list[Path]
) -> None:
    folder = tmp_path / "node"
    lifecycle.end_if_unused("node", str(folder))
    assert ended == [], "there was no cluster yet"
    (folder / "holders").mkdir(parents=True)
    if kept:
        (folder / "kept").touch()
    if holder:
        (folder / "holders" / holder).touch()
    lifecycle.end_if_unused("node", str(folder))
    assert ended == ([folder] if ends else [])
