"""kube-network-policies, a program of Kubernetes' network group that enforces NetworkPolicies, as a process.

The program judges the first packet of every connection that the kernel hands over through a queue. The program adds a
rule with nftables' `queue` statement for this, which some kernels lack; then its log has an error for each attempt. The
rule of iptables that is added here works on these kernels as well.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.cluster import guard, modules
from tests.cluster.namespaces import Namespace

MODULE = Path(__file__).with_name("netpol")
QUEUE = ("-m", "conntrack", "--ctstate", "NEW", "-j", "NFQUEUE", "--queue-num", "100")
"""The end of a rule of iptables that has the program judge new connections. While the program does not listen, the
kernel drops their packets.
"""


def build() -> Path:
    """Build the program once, and return its path; raise ``NoCluster`` if it cannot be built."""
    return modules.build(MODULE, ".", "netpol")


def command(kubeconfig: Path, node: str) -> list[str]:
    """The command line of the program, which enforces the policies of the pods of one node."""
    return [str(build()), f"--kubeconfig={kubeconfig}", f"--node={node}"]


@contextlib.contextmanager
def running(namespace: Namespace, kubeconfig: Path, node: str, log: Path) -> Iterator[None]:
    """Run the program, and have it judge all connections that ``namespace`` forwards."""
    for iptables in ("iptables", "ip6tables"):
        namespace.run(iptables, "-w", "-A", "FORWARD", *QUEUE)
    with log.open("ab") as output:
        engine = guard.start(namespace.command(*command(kubeconfig, node)), stdout=output, stderr=output)
    try:
        yield
    finally:
        engine.kill()
        engine.wait()
