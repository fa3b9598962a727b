"""The test cluster from the command line: ``python -m tests.cluster up | down | status | build | check``."""

import argparse
import sys
from typing import get_args

from tests.cluster import external, images, kuberay, kueue, lifecycle, packages, policy_engine, programs, s3
from tests.cluster.client import Client
from tests.cluster.cluster import missing_capabilities
from tests.cluster.errors import CommandFailed, NoCluster
from tests.cluster.paths import Tier, home


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code. ``up`` prints to standard output only what a shell may evaluate."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status", "build", "check"))
    parser.add_argument(
        "--tier", choices=get_args(Tier), help="default: the best tier for up, node for build, both for down and status"
    )
    options = parser.parse_args(arguments)
    tiers: list[Tier] = [options.tier] if options.tier else ["node", "api"]
    try:
        match options.command:
            case "up":
                print(f"export KUBECONFIG={_up(options.tier).kubeconfig}")
            case "down":
                for tier in tiers:
                    lifecycle.down(tier)
                if "node" in tiers:
                    external.delete_kind()
            case "status":
                running = [_print_status(tier) for tier in tiers]
                return 0 if any(running) else 1
            case "check":
                lifecycle.require("node")
            case "build":
                _build(tiers[0])
    except (NoCluster, CommandFailed, TimeoutError) as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def _up(tier: Tier | None) -> Client:
    """Start the given tier, or else the best one that this machine can run."""
    if tier is not None:
        return lifecycle.up(tier)
    cluster = external.preferred()
    try:
        return cluster or lifecycle.up("node")
    except NoCluster as missing:
        programs.echo(f"{missing}\nStarting only an API server: tests that need a node cannot run here.")
        return lifecycle.up("api")


def _print_status(tier: Tier) -> bool:
    cluster = lifecycle.find(tier)
    if cluster is None:
        print(
            f"{tier}: not running{f', but files of a cluster are left in {home(tier)}' if home(tier).exists() else ''}"
        )
        return False
    print(f"{tier}: running at {cluster.control_plane.url}, KUBECONFIG={cluster.kubeconfig}")
    for name in cluster.processes.names():
        print(f"  {name}: {cluster.processes.pid(name) or 'ended'}, log {cluster.processes.log(name)}")
    return True


def _build(tier: Tier) -> None:
    """Build everything that takes long before the tests begin, so that it does not count against one test's timeout."""
    s3.build()
    if not missing_capabilities():
        policy_engine.build()
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
