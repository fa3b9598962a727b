"""The machine's side of the pods' network: a bridge, a route for Services, and a wall around both.

No packet of the cluster leaves the machine: pods have addresses that nothing outside knows, their traffic is never
masqueraded to another interface, and what they send elsewhere is rejected at once, so that a test that tries fails
fast.
"""

import contextlib
import json
import os
import shlex
import subprocess
from pathlib import Path

from tests.cluster.errors import CommandFailed, NoCluster
from tests.cluster.places import search_path

BRIDGE = "promptintern0"
ADDRESS = "10.213.0.1"
"""The node's, the API server's, the DNS server's and the S3 server's: the same from the machine and from every pod."""
PODS = "10.213.0.0/16"
SERVICES = "10.214.0.0/16"
CNI_NETWORK = "promptintern"

_REJECTED = (("-i", BRIDGE, "!", "-o", BRIDGE), ("!", "-i", BRIDGE, "-o", BRIDGE))
_SET = {"net/ipv4/ip_forward": "1"}
_CHANGED_BY_KUBERNETES = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/conf/all/route_localnet",
)


def up(home: Path) -> None:
    """Make the bridge, the routes and the wall.

    Raises:
        NoCluster: if another Kubernetes or another network is in the way.
    """
    _refuse_neighbours()
    _remember_sysctls(home)
    for name, value in _SET.items():
        _sysctl(name).write_text(value)
    # A fixed hardware address: the bridge would otherwise change it with every pod, and neighbours would miss it.
    run("ip", "link", "add", "name", BRIDGE, "address", "02:d5:00:00:00:01", "type", "bridge")
    run("ip", "address", "add", f"{ADDRESS}/16", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    # Before kube-proxy has rules for a Service, its packets must not take the default route.
    run("ip", "route", "add", SERVICES, "dev", BRIDGE)
    for rule in _REJECTED:
        run("iptables", "-w", "-I", "FORWARD", *rule, "-j", "REJECT")


def down(home: Path) -> None:
    """Remove what ``up`` and the cluster's programs made; nothing, if ``up`` refused."""
    if not _remembered(home).exists():
        return
    for rule in _REJECTED:
        while run("iptables", "-w", "-D", "FORWARD", *rule, "-j", "REJECT", check=False):
            pass
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        for port in Path(f"/sys/class/net/{BRIDGE}/brif").glob("*"):
            run("ip", "link", "delete", port.name, check=False)
        run("ip", "link", "delete", BRIDGE)  # its addresses and routes go with it
    for iptables in ("iptables", "ip6tables"):
        for command in rules_to_remove(_saved(iptables)):
            run(iptables, "-w", *command, check=False)
    _forget_containers()
    _restore_sysctls(home)


def rules_to_remove(saved: str) -> list[list[str]]:
    """The commands that undo kube-proxy's and the kubelet's rules, from what ``iptables-save`` printed.

    First the jumps into their chains, then the chains' rules, then the chains.
    """
    jumps, flushes, chains, table = [], [], [], ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":KUBE-"):
            chain = line[1:].split()[0]
            flushes.append(["-t", table, "-F", chain])
            chains.append(["-t", table, "-X", chain])
        elif line.startswith("-A ") and not line.startswith("-A KUBE-") and " -j KUBE-" in line:
            jumps.append(["-t", table, "-D", *_words(line)[1:]])
    return jumps + flushes + chains


def run(*argv: str, check: bool = True) -> bool:
    """Run one of the machine's own tools; whether it succeeded."""
    done = _run(*argv)
    if check and done.returncode != 0:
        raise CommandFailed(list(argv), done.returncode, done.stderr)
    return done.returncode == 0


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": search_path()}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def _forget_containers() -> None:
    """The plugins' notes on our containers, kept at one place for all networks of the machine."""
    results = Path("/var/lib/cni/results")
    for note in list(results.glob(f"{CNI_NETWORK}-*-eth0")):
        container = note.name.removeprefix(f"{CNI_NETWORK}-").removesuffix("-eth0")
        note.unlink()
        (results / f"cni-loopback-{container}-lo").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else's are there too
        results.rmdir()
        results.parent.rmdir()


def _words(rule: str) -> list[str]:
    return shlex.split(rule)


def _saved(iptables: str) -> str:
    return _run(f"{iptables}-save").stdout


def _refuse_neighbours() -> None:
    for route in json.loads(_run("ip", "-json", "route").stdout or "[]"):
        if str(route.get("dst", "")).startswith(("10.213.", "10.214.")):
            raise NoCluster(f"no Kubernetes: {PODS} or {SERVICES} is in use on {route.get('dev')}; give it up first")
    if ":KUBE-" in _saved("iptables"):
        raise NoCluster("no Kubernetes: there are kube-proxy's rules here already; is another Kubernetes running?")


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name


def _remembered(home: Path) -> Path:
    return home / "sysctls.json"


def _remember_sysctls(home: Path) -> None:
    names = [name for name in (*_SET, *_CHANGED_BY_KUBERNETES) if _sysctl(name).exists()]
    _remembered(home).write_text(json.dumps({name: _sysctl(name).read_text().strip() for name in names}))


def _restore_sysctls(home: Path) -> None:
    for name, value in json.loads(_remembered(home).read_text()).items():
        if _sysctl(name).read_text().strip() != value:
            _sysctl(name).write_text(value)
