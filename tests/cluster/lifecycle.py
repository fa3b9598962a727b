"""Bring a cluster up once for all who want it, and down after the last of them."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.cluster import programs
from tests.cluster.api_server import ApiServer
from tests.cluster.locks import locked
from tests.cluster.places import Tier, home
from tests.cluster.processes import start_time
from tests.cluster.programs import Say


def up(tier: Tier, say: Say = programs.say) -> ApiServer:
    """A running cluster that stays until ``down``."""
    with _lock(tier):
        cluster = _up(tier, say)
        _kept(tier).touch()
        return cluster


def down(tier: Tier) -> None:
    """End the cluster, whoever uses it, and remove all of it. Nothing happens if there is none."""
    with _lock(tier):
        if home(tier).exists():
            _at(tier, programs.say).down()


def require(tier: Tier) -> None:
    """Nothing, if this machine can run the tier.

    Raises:
        NoCluster: naming what is missing.
    """
    _at(tier, programs.say).require()


@contextlib.contextmanager
def shared(tier: Tier, say: Say = programs.say) -> Iterator[ApiServer]:
    """A running cluster, shared with other processes; the last one ends it, unless it was brought up by ``up``."""
    with _lock(tier):
        cluster = _up(tier, say)
        # One for each use: a process may hold the cluster twice, through the fixtures of two folders.
        mine = _holders(tier) / f"{os.getpid()}-{start_time(os.getpid())}-{uuid.uuid4().hex}"
        mine.parent.mkdir(exist_ok=True)
        mine.touch()
    try:
        yield cluster
    finally:
        with _lock(tier):
            mine.unlink(missing_ok=True)
            if not _kept(tier).exists() and not any(_alive(holder) for holder in _holders(tier).glob("*")):
                cluster.down()


def find(tier: Tier) -> ApiServer | None:
    """The cluster, if it is up and well."""
    if not home(tier).exists():
        return None
    cluster = _at(tier, programs.say)
    return cluster if cluster.healthy() else None


def _up(tier: Tier, say: Say) -> ApiServer:
    found = find(tier)
    if found is not None:
        return found
    if home(tier).exists():
        say(f"removing what is left of a cluster in {home(tier)}")
        _at(tier, say).down()
    cluster = _at(tier, say)
    try:
        cluster.require()
        programs.build(programs.API_TIER if tier == "api" else programs.NODE_TIER, say)
        cluster.up()
    except BaseException:
        cluster.down()
        raise
    return cluster


def _at(tier: Tier, say: Say) -> ApiServer:
    if tier == "api":
        return ApiServer(home(tier))
    from tests.cluster.cluster import Cluster

    return Cluster(home(tier), say)


def _lock(tier: Tier) -> contextlib.AbstractContextManager[None]:
    return locked(home(tier).parent / f"{tier}.lock")


def _kept(tier: Tier) -> Path:
    return home(tier) / "kept"


def _holders(tier: Tier) -> Path:
    return home(tier) / "holders"


def _alive(holder: Path) -> bool:
    pid, started, *_ = holder.name.split("-")
    return start_time(int(pid)) == started
