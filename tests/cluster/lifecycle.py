"""Start a cluster once for all processes that use it, and end it after the last of them."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.cluster import guard, programs
from tests.cluster.api_server import ApiServer
from tests.cluster.locks import locked
from tests.cluster.paths import Tier, home
from tests.cluster.processes import start_time
from tests.cluster.programs import Echo


def up(tier: Tier, echo: Echo = programs.echo) -> ApiServer:
    """Start a cluster, or find the running one; it stays until ``down``, also after this process has ended."""
    guard.call_at_exit(end_if_unused, tier, str(home(tier)))
    with _lock(tier):
        cluster = _up(tier, echo)
        _kept(home(tier)).touch()
        return cluster


def down(tier: Tier) -> None:
    """End the cluster, even if processes use it, and remove its files; do nothing if there is none."""
    with _lock(tier):
        if home(tier).exists():
            _cluster_in(tier, programs.echo, home(tier)).down()


def require(tier: Tier) -> None:
    """Check that this machine can run the tier.

    Raises:
        NoCluster: if it cannot; the message names what is missing.
    """
    _cluster_in(tier, programs.echo, home(tier)).require()


@contextlib.contextmanager
def shared(tier: Tier, echo: Echo = programs.echo) -> Iterator[ApiServer]:
    """Share a running cluster with other processes. The last of them ends it, unless ``up`` started it."""
    folder = home(tier)
    guard.call_at_exit(end_if_unused, tier, str(folder))
    with _lock(tier):
        cluster = _up(tier, echo)
        # One file for each use: a process may hold the cluster twice, through the fixtures of two folders.
        holder = _holders(folder) / f"{os.getpid()}-{start_time(os.getpid())}-{uuid.uuid4().hex}"
        holder.parent.mkdir(exist_ok=True)
        holder.touch()
    try:
        yield cluster
    finally:
        holder.unlink(missing_ok=True)
        end_if_unused(tier, str(folder))


def end_if_unused(tier: Tier, folder: str) -> None:
    """End the cluster in ``folder`` unless a running process uses it or ``up`` started it; do nothing if there is none.

    This is also the end of a cluster whose processes were killed while they started or used it.
    """
    place = Path(folder)
    with locked(place.parent / f"{tier}.lock"):
        if place.exists() and not _kept(place).exists() and not any(map(_is_alive, _holders(place).glob("*"))):
            _cluster_in(tier, programs.echo, place).down()


def find(tier: Tier) -> ApiServer | None:
    """The cluster if it runs and is healthy, or None."""
    if not home(tier).exists():
        return None
    cluster = _cluster_in(tier, programs.echo, home(tier))
    return cluster if cluster.healthy() else None


def _up(tier: Tier, echo: Echo) -> ApiServer:
    running = find(tier)
    if running is not None:
        return running
    if home(tier).exists():
        echo(f"removing the remains of a cluster in {home(tier)}")
        _cluster_in(tier, echo, home(tier)).down()
    cluster = _cluster_in(tier, echo, home(tier))
    try:
        cluster.require()
        programs.build(programs.API_TIER if tier == "api" else programs.NODE_TIER, echo)
        cluster.up()
    except BaseException:
        cluster.down()
        raise
    return cluster


def _cluster_in(tier: Tier, echo: Echo, folder: Path) -> ApiServer:
    if tier == "api":
        return ApiServer(folder)
    from tests.cluster.cluster import Cluster

    return Cluster(folder, echo)


def _lock(tier: Tier) -> contextlib.AbstractContextManager[None]:
    return locked(home(tier).parent / f"{tier}.lock")


def _kept(folder: Path) -> Path:
    return folder / "kept"


def _holders(folder: Path) -> Path:
    return folder / "holders"


def _is_alive(holder: Path) -> bool:
    pid, started, *_ = holder.name.split("-")
    return start_time(int(pid)) == started
