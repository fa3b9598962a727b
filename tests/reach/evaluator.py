"""NetworkPolicies as a pure function: whether the policies of a cluster allow a connection.

The rules are those of the API reference of `networking.k8s.io/v1`. An `ipBlock` also matches the addresses of pods. The
API leaves that to the network plugin; most plugins do so, and it is the less strict of the two readings.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]
NAME_LABEL = "kubernetes.io/metadata.name"
"""The label with a namespace's name, which the API server sets on every namespace."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A pod, or an address outside the cluster, which has neither a namespace nor labels."""

    name: str
    address: str
    namespace: str | None = None
    labels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, order=True)
class Port:
    """A port of a protocol."""

    number: int
    protocol: str = "TCP"


def is_allowed(policies: Iterable[Manifest], source: Endpoint, target: Endpoint, port: Port) -> bool:
    """Return whether ``source`` may connect to ``port`` of ``target``, by the source's egress and target's ingress."""
    policies = list(policies)
    return _admits(policies, "Egress", source, target, port) and _admits(policies, "Ingress", target, source, port)


def _admits(policies: list[Manifest], direction: str, pod: Endpoint, peer: Endpoint, port: Port) -> bool:
    """Return whether the policies of one direction that select ``pod`` allow its connection; without any, they do."""
    selecting = [policy for policy in policies if _selects(policy, direction, pod)]
    return not selecting or any(
        _matches(rule, policy["metadata"]["namespace"], peer, port, "from" if direction == "Ingress" else "to")
        for policy in selecting
        for rule in policy["spec"].get(direction.lower(), [])
    )


def _selects(policy: Manifest, direction: str, pod: Endpoint) -> bool:
    return (
        pod.namespace == policy["metadata"]["namespace"]
        and direction in policy["spec"]["policyTypes"]
        and _has_labels(policy["spec"]["podSelector"], pod.labels)
    )


def _matches(rule: Manifest, namespace: str, peer: Endpoint, port: Port, side: str) -> bool:
    """Return whether a rule matches both; a rule without peers matches all of them, and the same holds for ports."""
    peers, ports = rule.get(side, []), rule.get("ports", [])
    return (not peers or any(_is_peer(each, namespace, peer) for each in peers)) and (
        not ports or any(_is_port(each, port) for each in ports)
    )


def _is_port(rule: Manifest, port: Port) -> bool:
    return bool(rule.get("protocol", "TCP") == port.protocol and rule.get("port", port.number) == port.number)


def _is_peer(rule: Manifest, namespace: str, peer: Endpoint) -> bool:
    if block := rule.get("ipBlock"):
        return _contains(block["cidr"], peer) and not any(_contains(each, peer) for each in block.get("except", []))
    if peer.namespace is None:
        return False
    if "namespaceSelector" not in rule:
        is_there = peer.namespace == namespace
    else:
        is_there = _has_labels(rule["namespaceSelector"], {NAME_LABEL: peer.namespace})
    return is_there and _has_labels(rule.get("podSelector", {}), peer.labels)


def _contains(cidr: str, peer: Endpoint) -> bool:
    return ipaddress.ip_address(peer.address) in ipaddress.ip_network(cidr)


def _has_labels(selector: Manifest, labels: Mapping[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        _meets(each, labels) for each in selector.get("matchExpressions", [])
    )


def _meets(expression: Manifest, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values", [])
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ValueError(f"{expression['operator']}: is no operator of a label selector")
