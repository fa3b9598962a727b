"""The machine's side of the pods' network: a bridge, a route for Services, and firewall rules that isolate both.

No packet of the cluster leaves the machine: pod addresses are not routed outside, traffic is never masqueraded to
another interface, and packets to other destinations are rejected at once, so that a test that sends them fails fast.
"""

import contextlib
import json
import os
import shlex
import subprocess
from pathlib import Path

from tests.cluster import policy_engine
from tests.cluster.errors import CommandFailed, NoCluster
from tests.cluster.paths import search_path

BRIDGE = "promptintern0"
ADDRESS = "10.213.0.1"
"""The address of the node, API server, DNS server and S3 server, for the machine and for every pod."""
PODS = "10.213.0.0/16"
SERVICES = "10.214.0.0/16"
CNI_NETWORK = "promptintern"

_REJECTED = (("-i", BRIDGE, "!", "-o", BRIDGE), ("!", "-i", BRIDGE, "-o", BRIDGE))
_JUDGED = (("FORWARD", "-i", BRIDGE, "-o", BRIDGE), ("INPUT", "-i", BRIDGE))
_SET = {"net/ipv4/ip_forward": "1"}
_CHANGED_BY_KUBERNETES = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/conf/all/route_localnet",
)


def up(home: Path) -> None:
    """Create the bridge, the routes and the firewall rules.

    Raises:
        NoCluster: if another Kubernetes runs here, or another network uses the addresses.
    """
    _refuse_conflicts()
    _save_sysctls(home)
    for name, value in _SET.items():
        _sysctl(name).write_text(value)
    # Without a fixed hardware address the bridge would change it with every pod, and its neighbours would lose it.
    run("ip", "link", "add", "name", BRIDGE, "address", "02:d5:00:00:00:01", "type", "bridge")
    run("ip", "address", "add", f"{ADDRESS}/16", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    # Until kube-proxy has rules for a Service, packets to it must not take the default route.
    run("ip", "route", "add", SERVICES, "dev", BRIDGE)
    for rule in _REJECTED:
        run("iptables", "-w", "-I", "FORWARD", *rule, "-j", "REJECT")


def down(home: Path) -> None:
    """Remove what ``up`` and the cluster's programs created; do nothing if ``up`` did not get so far."""
    if not _saved_sysctls(home).exists():
        return
    stop_judging_connections()
    for rule in _REJECTED:
        while run("iptables", "-w", "-D", "FORWARD", *rule, "-j", "REJECT", check=False):
            pass
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        for port in Path(f"/sys/class/net/{BRIDGE}/brif").glob("*"):
            run("ip", "link", "delete", port.name, check=False)
        run("ip", "link", "delete", BRIDGE)  # this removes its addresses and routes as well
    for iptables in ("iptables", "ip6tables"):
        for command in rules_to_remove(_saved_rules(iptables)):
            run(iptables, "-w", *command, check=False)
    _remove_cached_results()
    _restore_sysctls(home)


def judge_connections() -> None:
    """Have a policy engine judge new connections between pods, and from pods to the node."""
    for rule in _JUDGED:
        run("iptables", "-w", "-I", *rule, *policy_engine.QUEUE)


def stop_judging_connections() -> None:
    """Undo ``judge_connections``, or do nothing."""
    for rule in _JUDGED:
        while run("iptables", "-w", "-D", *rule, *policy_engine.QUEUE, check=False):
            pass


def rules_to_remove(saved: str) -> list[list[str]]:
    """The iptables commands that remove the rules of kube-proxy and the kubelet from the output of ``iptables-save``.

    They remove the jumps into their chains first, then the chains' rules, then the chains.
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
    """Run one of the machine's own tools, and return whether it succeeded."""
    completed = _run(*argv)
    if check and completed.returncode != 0:
        raise CommandFailed(list(argv), completed.returncode, completed.stderr)
    return completed.returncode == 0


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": search_path()}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def _remove_cached_results() -> None:
    """Remove the CNI plugins' cached results for our containers from the folder that all networks share."""
    results = Path("/var/lib/cni/results")
    for result in list(results.glob(f"{CNI_NETWORK}-*-eth0")):
        container = result.name.removeprefix(f"{CNI_NETWORK}-").removesuffix("-eth0")
        result.unlink()
        (results / f"cni-loopback-{container}-lo").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # results of other networks are left in it
        results.rmdir()
        results.parent.rmdir()


def _words(rule: str) -> list[str]:
    return shlex.split(rule)


def _saved_rules(iptables: str) -> str:
    return _run(f"{iptables}-save").stdout


def _refuse_conflicts() -> None:
    for route in json.loads(_run("ip", "-json", "route").stdout or "[]"):
        if str(route.get("dst", "")).startswith(("10.213.", "10.214.")):
            raise NoCluster(
                f"no Kubernetes: {PODS} or {SERVICES} is in use on {route.get('dev')}; remove that network first"
            )
    if ":KUBE-" in _saved_rules("iptables"):
        raise NoCluster(
            "no Kubernetes: rules of a kube-proxy exist already; is another Kubernetes running on this machine?"
        )


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name


def _saved_sysctls(home: Path) -> Path:
    return home / "sysctls.json"


def _save_sysctls(home: Path) -> None:
    names = [name for name in (*_SET, *_CHANGED_BY_KUBERNETES) if _sysctl(name).exists()]
    _saved_sysctls(home).write_text(json.dumps({name: _sysctl(name).read_text().strip() for name in names}))


def _restore_sysctls(home: Path) -> None:
    for name, value in json.loads(_saved_sysctls(home).read_text()).items():
        if _sysctl(name).read_text().strip() != value:
            _sysctl(name).write_text(value)
