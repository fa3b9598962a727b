"""kube-network-policies enforces the policies of jobs on real connections, and allows those of the table alone."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.cluster import fixtures, packages, policy_engine, programs
from tests.cluster.api_server import ApiServer
from tests.cluster.cluster import missing_capabilities
from tests.cluster.errors import NoCluster
from tests.reach.network import Network
from tests.reach.table import CHARTS, Connection, connections, endpoints, policies

VERSIONS = (4, 6)
_NODE = "node"
_TIMEOUT_SECONDS = 120
_PACKAGES = ("iproute2", "iptables")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The network, and an API server in the router's namespace, in which the tests run."""

    network: Network
    server: ApiServer

    def apply(self, chart: str) -> None:
        """Apply the policies that the operator renders for a chart."""
        self.server.apply(policies(CHARTS[chart]))

    def differences(self, allowed: Mapping[int, set[str]]) -> list[str]:
        """Open every connection of the table until exactly those of ``allowed`` are answered twice in a row.

        Return what is still wrong at the end. The program learns of policies and pods a moment after they change.
        """
        deadline, right = time.monotonic() + _TIMEOUT_SECONDS, 0
        while True:
            wrong = [line for version in VERSIONS for line in self._differences(version, allowed[version])]
            right = 0 if wrong else right + 1
            if right == 2 or time.monotonic() > deadline:
                return wrong

    def _differences(self, version: int, allowed: set[str]) -> list[str]:
        answered = self.network.try_all(_of_version(version), version)
        lines = [f"IPv{version}: {each} was answered" for each in sorted(answered - allowed)]
        return lines + [f"IPv{version}: {each} was not answered" for each in sorted(allowed - answered)]


def _of_version(version: int) -> list[Connection]:
    names = endpoints(version).keys()
    return [each for each in connections() if {each.source, each.target} <= names]


def _allowed(chart: str) -> dict[int, set[str]]:
    return {version: {str(each) for each in _of_version(version) if each.is_allowed[chart]} for version in VERSIONS}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The pods of the table and the program, with an API server of its own; no policy yet."""
    folder = tmp_path_factory.mktemp("reach")
    try:
        if missing := missing_capabilities():
            raise NoCluster(f"no network namespaces: this process has no {', no '.join(missing)}; run as root on Linux")
        packages.install(_PACKAGES)
        programs.build(programs.API_TIER)
        policy_engine.build()
    except NoCluster as lacking:
        fixtures.skip_or_fail(lacking)
    with (
        Network({version: endpoints(version) for version in VERSIONS}) as network,
        network.router.entered(),
        ApiServer(folder / "api") as server,
        policy_engine.running(network.router, server.kubeconfig, _NODE, folder / "policy-engine.log"),
    ):
        _create_pods(server)
        yield Place(network=network, server=server)


def _create_pods(server: ApiServer) -> None:
    """Create the namespaces, and the pods as a kubelet would report them."""
    pods = {name: pod for name, pod in endpoints(4).items() if pod.namespace is not None}
    for namespace in sorted({str(pod.namespace) for pod in pods.values()} - {"kube-system"}):
        server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    for name, pod in pods.items():
        meta = {"name": name.lower().replace(" ", "-"), "namespace": pod.namespace, "labels": dict(pod.labels)}
        spec = {"nodeName": _NODE, "containers": [{"name": "main", "image": "none"}]}
        server.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        addresses = [pod.address, endpoints(6)[name].address]
        status = {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
        target = ("pod", str(meta["name"]), "--namespace", str(pod.namespace))
        server.kubectl("patch", *target, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def test_without_policies_every_connection_is_answered(place: Place) -> None:
    """Otherwise, a connection that a policy must refuse would prove nothing."""
    everything = {version: {str(each) for each in _of_version(version)} for version in VERSIONS}
    assert sum(map(len, everything.values())) > 120
    assert place.differences(everything) == []


@pytest.mark.parametrize("chart", CHARTS)
def test_who_reaches_what(place: Place, chart: str) -> None:
    place.apply(chart)
    assert place.differences(_allowed(chart)) == []
