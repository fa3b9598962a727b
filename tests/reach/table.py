"""Who may connect to what: pods and addresses, and a table of the connections that the policies of jobs allow.

`tests/unit/operator/test_reach.py` evaluates the rendered policies. `tests/integration/reach` opens the connections of
the same table, past a program that enforces the policies.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from promptintern_api import PromptInternJob
from promptintern_operator.manifests.config import resolve
from promptintern_operator.manifests.network import network_policy
from promptintern_operator.manifests.preflight import preflight_job
from promptintern_operator.manifests.rayjob import ray_job
from promptintern_operator.settings import DefaultStorage, EgressRule, Settings

from tests.reach.evaluator import Endpoint, Port
from tests.unit.operator.builders import job

Manifest = dict[str, Any]

_STORAGE = DefaultStorage(uri="s3://all/runs", secret_name="all-s3")
DEFAULT = Settings(default_storage=_STORAGE)
LISTED = Settings(
    default_storage=_STORAGE,
    egress=(
        EgressRule(cidr="10.0.0.1/32", ports=[443, 6443]),
        EgressRule(cidr="fd00:10::1/128", ports=[443, 6443]),
        EgressRule(cidr="192.0.2.0/24", ports=[443]),
        EgressRule(cidr="2001:db8::/64", ports=[443]),
    ),
)
"""A chart whose `egress` lists only the API server and the storage, as docs/tenants.md shows."""
CHARTS = {"default": DEFAULT, "listed": LISTED}

KUBERAY_LABELS = {"app.kubernetes.io/component": "kuberay-operator", "app.kubernetes.io/name": "kuberay"}
DNS_LABELS = {"k8s-app": "kube-dns"}

_TABLE = """
from                  | to                    | ports                     | default | listed
----------------------|-----------------------|---------------------------|---------|-------
head                  | worker                | 6379/TCP 10002/TCP 53/UDP | yes     | yes
worker                | head                  | 6379/TCP 8265/TCP 53/UDP  | yes     | yes
check                 | head                  | 8265/TCP                  | yes     | yes
head of another job   | head                  | 6379/TCP 8265/TCP         | no      | no
head                  | head of another job   | 6379/TCP 8265/TCP 53/UDP  | no      | no
head of another team  | head                  | 6379/TCP 8265/TCP         | no      | no
head                  | head of another team  | 6379/TCP 8265/TCP 53/UDP  | no      | no
copy of the head      | worker                | 6379/TCP 8265/TCP         | no      | no
pod of the namespace  | head                  | 6379/TCP 8265/TCP         | no      | no
KubeRay               | head                  | 8265/TCP                  | yes     | yes
KubeRay               | head                  | 6379/TCP 10001/TCP 53/UDP | no      | no
KubeRay               | head of another job   | 8265/TCP                  | yes     | yes
pod beside KubeRay    | head                  | 8265/TCP                  | no      | no
copy of KubeRay       | head                  | 8265/TCP                  | no      | no
copy of KubeRay here  | head                  | 8265/TCP                  | no      | no
private address       | head                  | 6379/TCP 8265/TCP         | no      | no
check                 | CoreDNS               | 53/UDP 53/TCP             | yes     | yes
worker                | CoreDNS               | 53/UDP 53/TCP             | yes     | yes
head                  | DNS cache             | 53/UDP 53/TCP             | yes     | yes
head                  | DNS cache's address   | 53/UDP 53/TCP             | yes     | yes
head                  | DNS cache's address   | 80/TCP 9254/TCP           | no      | no
head                  | CoreDNS               | 9153/TCP                  | yes     | no
head                  | pod of kube-system    | 53/UDP 53/TCP 443/TCP     | yes     | no
head                  | copy of CoreDNS       | 53/UDP 53/TCP             | yes     | no
head                  | pod of the namespace  | 53/UDP 53/TCP 443/TCP     | yes     | no
head                  | KubeRay               | 53/UDP 8080/TCP           | yes     | no
head                  | API server            | 443/TCP 6443/TCP          | yes     | yes
head                  | API server            | 10250/TCP                 | yes     | no
check                 | storage               | 443/TCP                   | yes     | yes
worker                | storage               | 443/TCP                   | yes     | yes
worker                | storage               | 80/TCP 443/UDP            | yes     | no
worker                | private address       | 443/TCP 53/UDP            | yes     | no
check                 | metadata of AWS       | 80/TCP 443/TCP            | no      | no
head                  | metadata of AWS       | 80/TCP 443/TCP            | no      | no
worker                | metadata of AWS       | 80/TCP 443/TCP            | no      | no
worker                | credentials of AWS    | 80/TCP                    | no      | no
worker                | metadata of Google    | 80/TCP 443/TCP            | no      | no
worker                | metadata of Azure     | 80/TCP 32526/TCP 53/UDP   | no      | no
worker                | metadata of Alibaba   | 80/TCP 53/UDP             | no      | no
worker                | metadata of Oracle    | 80/TCP                    | no      | no
worker                | metadata of Akamai    | 80/TCP                    | no      | no
worker                | metadata of Scaleway  | 80/TCP                    | no      | no
"""
"""Whether a connection is allowed with the charts of ``CHARTS``. A port that one pod may not reach at all shows that
the default `egress` also leads to other pods; only their own policies protect them.
"""

_OUTSIDE = {
    "API server": ("10.0.0.1", "fd00:10::1"),
    "storage": ("192.0.2.7", "2001:db8::7"),
    "private address": ("10.20.30.40", "fd12::40"),
    "DNS cache's address": ("169.254.20.10", None),
    "metadata of AWS": ("169.254.169.254", "fd00:ec2::254"),
    "credentials of AWS": ("169.254.170.2", None),
    "metadata of Google": (None, "fd20:ce::254"),
    "metadata of Azure": ("168.63.129.16", None),
    "metadata of Alibaba": ("100.100.100.200", None),
    "metadata of Oracle": (None, "fd00:c1::a9fe:a9fe"),
    "metadata of Akamai": (None, "fd00:a9fe:a9fe::1"),
    "metadata of Scaleway": ("169.254.42.42", "fd00:42::42"),
}
"""The IPv4 and the IPv6 address, if they exist. AWS, Google, Oracle and most other clouds share the IPv4 address."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A connection, and whether it is allowed with each chart."""

    source: str
    target: str
    port: Port
    is_allowed: Mapping[str, bool]

    def __str__(self) -> str:
        return f"{self.source} -> {self.target} {self.port.number}/{self.port.protocol}"


def connections() -> list[Connection]:
    """Return the connections of the table."""
    header, _, *rows = ([cell.strip() for cell in line.split("|")] for line in _TABLE.strip().splitlines())
    return [
        Connection(
            source=source,
            target=target,
            port=Port(number=int(port.partition("/")[0]), protocol=port.partition("/")[2]),
            is_allowed=dict(zip(header[3:], (answer == "yes" for answer in answers), strict=True)),
        )
        for source, target, ports, *answers in rows
        for port in ports.split()
    ]


def _named(name: str, namespace: str, uid: str) -> PromptInternJob:
    parsed = job(name=name)
    return parsed.model_copy(
        update={"metadata": parsed.metadata.model_copy(update={"namespace": namespace, "uid": uid})}
    )


JOB = _named("small", "team-a", "0b3ac4fe-0000-0000-0000-000000000001")
_ANOTHER = _named("another", "team-a", "0b3ac4fe-0000-0000-0000-000000000002")
_OF_ANOTHER_TEAM = _named("small", "team-b", "0b3ac4fe-0000-0000-0000-000000000003")


def policies(settings: Settings) -> list[Manifest]:
    """Return the NetworkPolicies of three jobs: two of one team, and one of another team."""
    return [network_policy(each, settings) for each in (JOB, _ANOTHER, _OF_ANOTHER_TEAM)]


def labels_of(parsed: PromptInternJob) -> dict[str, dict[str, str]]:
    """Return the labels of the pods of a job, by the pods' role."""
    resolved = resolve(parsed, DEFAULT)
    cluster = ray_job(resolved, DEFAULT, number=1)["spec"]["rayClusterSpec"]
    templates = {
        "head": cluster["headGroupSpec"]["template"],
        "worker": cluster["workerGroupSpecs"][0]["template"],
        "check": preflight_job(resolved, DEFAULT, generation=1)["spec"]["template"],
    }
    return {role: template["metadata"]["labels"] for role, template in templates.items()}


def _pods() -> Iterable[tuple[str, str, Mapping[str, str]]]:
    own = labels_of(JOB)
    yield from ((role, "team-a", labels) for role, labels in own.items())
    yield "head of another job", "team-a", labels_of(_ANOTHER)["head"]
    yield "head of another team", "team-b", labels_of(_OF_ANOTHER_TEAM)["head"]
    yield "copy of the head", "team-b", own["head"]
    yield "pod of the namespace", "team-a", {}
    yield "KubeRay", "kuberay", KUBERAY_LABELS
    yield "pod beside KubeRay", "kuberay", {}
    yield "copy of KubeRay", "team-b", KUBERAY_LABELS
    yield "copy of KubeRay here", "team-a", KUBERAY_LABELS
    yield "CoreDNS", "kube-system", DNS_LABELS
    yield "DNS cache", "kube-system", {"k8s-app": "node-local-dns"}
    yield "pod of kube-system", "kube-system", {"k8s-app": "metrics-server"}
    yield "copy of CoreDNS", "team-b", DNS_LABELS


def endpoints(version: int) -> dict[str, Endpoint]:
    """Return the pods, and the addresses outside of them, with their addresses of an IP version, by name."""
    prefix = {4: "10.216.0.", 6: "fd16::"}[version]
    pods = [
        Endpoint(name=name, namespace=namespace, labels=labels, address=f"{prefix}{number}")
        for (name, namespace, labels), number in zip(_pods(), itertools.count(10), strict=False)
    ]
    outside = [
        Endpoint(name=name, labels={}, address=address)
        for name, addresses in _OUTSIDE.items()
        if (address := addresses[version == 6]) is not None
    ]
    return {each.name: each for each in (*pods, *outside)}
