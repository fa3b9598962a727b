"""The allowed connections of a job's pods: with each other, from KubeRay, to DNS, and to the chart's destinations."""

from promptintern_api import PromptInternJob
from promptintern_api.contract import LABEL_JOB_UID

from promptintern_operator.manifests.meta import Manifest, child_name, metadata, uid_of
from promptintern_operator.settings import EgressRule, Settings

_DASHBOARD = 8265
_KUBERAY = {"app.kubernetes.io/component": "kuberay-operator"}
"""The label that both KubeRay's chart and its manifests set on the pods of its operator."""


def network_policy(job: PromptInternJob, settings: Settings) -> Manifest:
    """Return the NetworkPolicy for all pods of ``job``."""
    own: Manifest = {"podSelector": {"matchLabels": {LABEL_JOB_UID: uid_of(job)}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(job, child_name(job)),
        "spec": {
            "podSelector": own["podSelector"],
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [own]},
                {"from": [_kuberay(settings)], "ports": [{"protocol": "TCP", "port": _DASHBOARD}]},
            ],
            "egress": [
                {"to": [own]},
                *(_egress(rule, "UDP", "TCP") for rule in settings.dns),
                *(_egress(rule, "TCP") for rule in settings.egress),
            ],
        },
    }


def _kuberay(settings: Settings) -> Manifest:
    namespace: Manifest = {}
    if settings.kuberay_namespace:
        namespace = {"matchLabels": {"kubernetes.io/metadata.name": settings.kuberay_namespace}}
    return {"namespaceSelector": namespace, "podSelector": {"matchLabels": _KUBERAY}}


def _egress(rule: EgressRule, *protocols: str) -> Manifest:
    selectors = {"namespaceSelector": rule.namespace_selector, "podSelector": rule.pod_selector}
    peer: Manifest = {kind: selector for kind, selector in selectors.items() if selector is not None}
    if rule.cidr is not None:
        peer = {"ipBlock": {"cidr": rule.cidr} | ({"except": list(rule.except_)} if rule.except_ else {})}
    ports = [{"protocol": protocol, "port": port} for protocol in protocols for port in rule.ports]
    return ({"to": [peer]} if peer else {}) | ({"ports": ports} if ports else {})
