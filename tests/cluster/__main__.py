"""The cluster from the command line: ``python -m tests.cluster up | down | status | build | can``."""

import argparse
import sys
from typing import get_args

from tests.cluster import foreign, images, kuberay, kueue, lifecycle, packages, programs, s3
from tests.cluster.client import Client
from tests.cluster.errors import CommandFailed, NoCluster
from tests.cluster.places import Tier, home


def main(arguments: list[str]) -> int:
    """The exit code. Only what a shell may evaluate goes to the standard output of ``up``."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status", "build", "can"))
    parser.add_argument("--tier", choices=get_args(Tier), help="up: the best there is; build: node; down, status: both")
    given = parser.parse_args(arguments)
    tiers: list[Tier] = [given.tier] if given.tier else ["node", "api"]
    try:
        match given.command:
            case "up":
                print(f"export KUBECONFIG={_up(given.tier).kubeconfig}")
            case "down":
                for tier in tiers:
                    lifecycle.down(tier)
                if "node" in tiers:
                    foreign.delete_kind()
            case "status":
                found = [_status(tier) for tier in tiers]
                return 0 if any(found) else 1
            case "can":
                lifecycle.require("node")
            case "build":
                _build(tiers[0])
    except (NoCluster, CommandFailed, TimeoutError) as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def _up(tier: Tier | None) -> Client:
    """The tier that was asked for; without one, the best there is."""
    if tier is not None:
        return lifecycle.up(tier)
    found = foreign.preferred()
    try:
        return found or lifecycle.up("node")
    except NoCluster as missing:
        programs.say(f"{missing}\nOnly an API server is up: what needs a node does not run here.")
        return lifecycle.up("api")


def _status(tier: Tier) -> bool:
    cluster = lifecycle.find(tier)
    if cluster is None:
        print(f"{tier}: not running{f', but {home(tier)} has remains' if home(tier).exists() else ''}")
        return False
    print(f"{tier}: running at {cluster.control_plane.url}, KUBECONFIG={cluster.kubeconfig}")
    for name in cluster.processes.names():
        print(f"  {name}: {cluster.processes.pid(name) or 'ended'}, log {cluster.processes.log(name)}")
    return True


def _build(tier: Tier) -> None:
    """All that takes long, before the tests, so that it does not count against one test's time."""
    s3.build()
    if tier == "api":
        programs.build(programs.API_TIER)
        return
    packages.install(packages.NODE)
    programs.build(programs.NODE_TIER)
    images.build_base()
    images.build_static_image(kuberay.IMAGE, "kuberay-operator", kuberay.ENTRYPOINT)
    images.build_static_image(kueue.IMAGE, "kueue", kueue.ENTRYPOINT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
