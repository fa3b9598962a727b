"""The rendered NetworkPolicies allow the connections of the table in tests/reach, and no others of their kind."""

import ipaddress
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern_api import PromptInternJob
from promptintern_operator.manifests.network import network_policy
from promptintern_operator.settings import EgressRule

from tests.reach.evaluator import Endpoint, Port, is_allowed
from tests.reach.table import CHARTS, DEFAULT, JOB, LISTED, connections, endpoints, labels_of, policies
from tests.unit.operator.jobs import jobs

ROOT = Path(__file__).parents[3]
FEW = settings(max_examples=100, derandomize=True)
DASHBOARD = Port(number=8265)
_METADATA = (
    *("169.254.0.0/16", "168.63.129.16", "100.100.100.200", "fe80::/10"),
    *("fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:a9fe:a9fe::1", "fd00:42::42"),
)
_LABELS = st.fixed_dictionaries(
    {},
    optional={
        "app.kubernetes.io/component": st.sampled_from(["kuberay-operator", "operator"]),
        "k8s-app": st.sampled_from(["kube-dns", "node-local-dns", "metrics-server"]),
        "promptintern.dev/job": st.sampled_from(["small", "another"]),
        "promptintern.dev/job-uid": st.sampled_from([JOB.metadata.uid, "another"]),
    },
)
_PODS = st.builds(
    Endpoint,
    name=st.just("some pod"),
    address=st.sampled_from(["10.216.0.99", "fd16::99"]),
    namespace=st.sampled_from(["team-a", "team-b", "kuberay", "kube-system", "default"]),
    labels=_LABELS,
)
_PORTS = st.builds(
    Port, number=st.integers(1, 65535) | st.sampled_from([53, 8265]), protocol=st.sampled_from(["TCP", "UDP"])
)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("chart", CHARTS)
def test_who_reaches_what(chart: str, version: int) -> None:
    by_name, rules = endpoints(version), policies(CHARTS[chart])
    wrong = [
        f"{connection}: expected {'yes' if connection.is_allowed[chart] else 'no'}"
        for connection in connections()
        if connection.source in by_name and connection.target in by_name
        if is_allowed(rules, by_name[connection.source], by_name[connection.target], connection.port)
        != connection.is_allowed[chart]
    ]
    assert wrong == []


def test_every_name_of_the_table_exists_and_every_endpoint_is_in_it() -> None:
    names = {name for connection in connections() for name in (connection.source, connection.target)}
    assert names == endpoints(4).keys() | endpoints(6).keys()
    assert len(connections()) > 70


def _examples(key: str) -> list[list[dict[str, Any]]]:
    """Return the values of ``key`` in the YAML examples of docs/tenants.md."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tenants.md").read_text(), re.DOTALL)
    return [values[key] for block in blocks for values in yaml.safe_load_all(block) if key in values]


@pytest.mark.parametrize("example", _examples("egress"))
def test_documented_egress_reaches_no_metadata_server(example: list[dict[str, Any]]) -> None:
    chart = DEFAULT.model_copy(update={"egress": tuple(map(EgressRule.model_validate, example))})
    for version in (4, 6):
        pods = endpoints(version)
        reached = [name for name in pods if is_allowed(policies(chart), pods["head"], pods[name], Port(number=80))]
        assert not [name for name in reached if name.startswith(("metadata", "credentials"))]


def test_the_documented_dns_of_openshift_is_reachable_there_alone() -> None:
    (example,) = _examples("dns")
    chart = LISTED.model_copy(update={"dns": tuple(map(EgressRule.model_validate, example))})
    labels = {"dns.operator.openshift.io/daemonset-dns": "default"}
    server = Endpoint(name="dns-default", address="10.216.0.99", namespace="openshift-dns", labels=labels)
    pods = endpoints(4)
    for protocol in ("UDP", "TCP"):
        reaches = partial(is_allowed, policies(chart), pods["check"], port=Port(number=5353, protocol=protocol))
        assert reaches(target=server)
        assert not reaches(target=pods["CoreDNS"])


def test_without_a_namespace_of_kuberay_its_label_is_enough() -> None:
    pods = endpoints(4)
    rules = policies(DEFAULT.model_copy(update={"kuberay_namespace": ""}))
    names = [name for name, pod in pods.items() if is_allowed(rules, pod, pods["head"], DASHBOARD)]
    assert names == ["head", "worker", "check", "KubeRay", "copy of KubeRay", "copy of KubeRay here"]


def _is_own(pod: Endpoint) -> bool:
    return pod.namespace == "team-a" and pod.labels.get("promptintern.dev/job-uid") == JOB.metadata.uid


def _own_pod(role: str, peer: Endpoint) -> Endpoint:
    """Return the job's pod with an address of the peer's IP version."""
    return endpoints(ipaddress.ip_address(peer.address).version)[role]


@FEW
@given(_PODS, _PORTS)
def test_only_the_job_and_kuberay_reach_a_pod_of_the_job(pod: Endpoint, port: Port) -> None:
    is_kuberay = pod.namespace == "kuberay" and pod.labels.get("app.kubernetes.io/component") == "kuberay-operator"
    policy = [network_policy(JOB, DEFAULT)]
    allowed = is_allowed(policy, pod, _own_pod("head", pod), port)
    assert allowed == (_is_own(pod) or (is_kuberay and port == DASHBOARD))


@FEW
@given(_PODS, _PORTS)
def test_with_listed_destinations_a_job_reaches_only_itself_and_dns(pod: Endpoint, port: Port) -> None:
    is_dns = pod.namespace == "kube-system" and pod.labels.get("k8s-app") in ("kube-dns", "node-local-dns")
    allowed = is_allowed(policies(LISTED), _own_pod("head", pod), pod, port)
    assert allowed == (_is_own(pod) or (is_dns and port.number == 53))


@FEW
@given(st.sampled_from(_METADATA), st.data(), _PORTS)
def test_no_port_of_a_metadata_server_is_reachable_except_dns(block: str, data: st.DataObject, port: Port) -> None:
    network = ipaddress.ip_network(block)
    address = network[data.draw(st.integers(0, network.num_addresses - 1))]
    server = Endpoint(name="metadata", address=str(address), labels={})
    is_dns = port.number == 53 and block == "169.254.0.0/16"
    for rules in (policies(DEFAULT), policies(LISTED)):
        assert is_allowed(rules, _own_pod("worker", server), server, port) == is_dns


@FEW
@given(jobs())
def test_the_pods_of_every_job_reach_each_other_and_dns(any_job: PromptInternJob) -> None:
    rules = [network_policy(any_job, LISTED)]
    pods = [
        Endpoint(name=role, address="10.216.0.9", namespace="team-a", labels=labels)
        for role, labels in labels_of(any_job).items()
    ]
    for source in pods:
        assert all(is_allowed(rules, source, target, Port(number=6379)) for target in pods)
        assert is_allowed(rules, source, endpoints(4)["CoreDNS"], Port(number=53, protocol="UDP"))
