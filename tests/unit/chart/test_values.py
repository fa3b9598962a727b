"""Every documented value is accepted, is in the schema, and has an effect."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.chart.conftest import (
    CHART,
    DEFAULTS,
    EVERYTHING,
    NAMED,
    SCHEMA,
    Helm,
    HelmFailed,
    Values,
    changed,
    leaves,
)

SNAPSHOTS = Path(__file__).with_name("snapshots")
RENEW = "PROMPTINTERN_RENEW_SNAPSHOTS"
"""``PROMPTINTERN_RENEW_SNAPSHOTS=1 pytest tests/unit/chart`` rewrites the snapshots. Review the difference."""


@pytest.mark.parametrize("name", NAMED)
def test_helm_lint(helm: Helm, name: str) -> None:
    helm.run("lint", str(CHART), "--strict", values=NAMED[name])


@pytest.mark.parametrize("name", NAMED)
def test_rendered_objects_equal_the_reviewed_snapshots(helm: Helm, name: str) -> None:
    text = helm.text(values=changed(NAMED[name], ("crds", "install"), False))
    file = SNAPSHOTS / f"{name}.yaml"
    if os.environ.get(RENEW):
        file.write_text(text)
    assert text == file.read_text(), (
        f"{file.name} is stale; if the change is right, run {RENEW}=1 pytest tests/unit/chart"
    )


def _paths(schema: Values) -> Iterator[tuple[str, ...]]:
    for name, inner in schema["properties"].items():
        if "properties" in inner:
            yield from ((name, *path) for path in _paths(inner))
        else:
            yield (name,)


def test_the_schema_and_the_values_have_the_same_names() -> None:
    paths = set(_paths(SCHEMA)) - {("global",)}
    assert set(leaves(SCHEMA, DEFAULTS)) == paths
    assert set(leaves(SCHEMA, EVERYTHING)) == paths


SWITCH_NEEDS_ONE_REPLICA = ("leaderElection",)
REPLACEMENTS: dict[tuple[str, ...], str] = {("defaultStorage", "uri"): "s3://another"}
"""Values for settings whose default is invalid beside the other settings."""


@pytest.mark.parametrize("path", sorted(set(leaves(SCHEMA, DEFAULTS)) - {SWITCH_NEEDS_ONE_REPLICA}), ids=".".join)
def test_each_value_has_an_effect(helm: Helm, path: tuple[str, ...]) -> None:
    """Every value is set. Resetting one to its default, or flipping a switch, must change the rendered chart."""
    value = leaves(SCHEMA, EVERYTHING)[path]
    default: Any = REPLACEMENTS.get(path, leaves(SCHEMA, DEFAULTS)[path])
    if isinstance(value, bool):
        default = not value
    assert default != value
    # None removes a mapping; Helm would merge an empty one.
    without = changed(EVERYTHING, path, default if not isinstance(value, dict) or default else None)
    assert helm.text(values=without) != helm.text(values=EVERYTHING)


def test_one_replica_without_leader_election(helm: Helm) -> None:
    with pytest.raises(HelmFailed, match="replicas: must be 1 with leaderElection=false"):
        helm.text(values={"leaderElection": False})
    (deployment,) = helm.objects(
        "--show-only", "templates/deployment.yaml", values={"leaderElection": False, "replicas": 1}
    )
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    names = [item["metadata"]["name"] for item in helm.objects(values={"leaderElection": False, "replicas": 1})]
    assert not [name for name in names if name.endswith("-lease")]


def test_every_kind_of_value_can_be_given_by_set(helm: Helm) -> None:
    """Numbers that --set makes of text reach the operator as the text that it reads."""
    sets = (
        "podSizes.head.cpu=2",
        "trainer.allowedImages={registry.example/team,hub.example}",
        "namespaces={team-a,team-b}",
        "egress[0].cidr=10.0.0.0/8",
        "egress[0].ports={443,9000}",
        "defaultStorage.uri=s3://platform/runs",
        r"serviceAccount.annotations.example\.org/role=operator",
        "resources.limits.memory=1Gi",
        "timing.retrySecondsMax=1000000",
    )
    text = helm.text(*(argument for value in sets for argument in ("--set", value)))
    assert r"{\"cpu\":\"2\",\"memory\":\"4Gi\"}" in text
    assert r"[{\"cidr\":\"10.0.0.0/8\",\"ports\":[443,9000]}]" in text


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        ({"replica": 2}, "replica"),
        ({"image": {"name": "x"}}, "name"),
        ({"image": "promptintern/operator:1"}, "image"),
        ({"image": {"repository": ""}}, "repository"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"imagePullSecrets": "registry"}, "imagePullSecrets"),
        ({"imagePullSecrets": [{"name": "registry"}]}, "imagePullSecrets"),
        ({"replicas": "two"}, "replicas"),
        ({"replicas": 1.5}, "replicas"),
        ({"replicas": -1}, "replicas"),
        ({"leaderElection": "yes"}, "leaderElection"),
        ({"leaseSeconds": 1}, "leaseSeconds"),
        ({"concurrency": 0}, "concurrency"),
        ({"silenceSeconds": 30}, "silenceSeconds"),
        ({"ports": {"probes": 0}}, "probes"),
        ({"ports": {"metrics": 70000}}, "metrics"),
        ({"podLabels": {"a": 1}}, "podLabels"),
        ({"namespaces": "team-a"}, "namespaces"),
        ({"namespaces": ["Team A"]}, "namespaces"),
        ({"namespaces": ["a", "a"]}, "namespaces"),
        ({"namespaces": ["team-*"]}, "namespaces"),
        ({"kuberayNamespace": "Kube Ray"}, "kuberayNamespace"),
        ({"rbac": {"create": True}}, "create"),
        ({"crds": {"keep": False}}, "keep"),
        ({"trainer": {"rayVersion": 2.6}}, "rayVersion"),
        ({"trainer": {"rayVersion": "latest"}}, "rayVersion"),
        ({"trainer": {"allowedImages": "registry.example"}}, "allowedImages"),
        ({"trainer": {"allowedImages": ["registry.example/team/"]}}, "allowedImages"),
        ({"trainer": {"allowedImages": ["registry.example:"]}}, "allowedImages"),
        ({"trainer": {"allowedImages": [""]}}, "allowedImages"),
        ({"trainer": {"allowedImages": ["it's"]}}, "allowedImages"),
        ({"trainer": {"image": "two words"}}, "image"),
        ({"defaultStorage": {"uri": "file:///tmp"}}, "uri"),
        ({"defaultStorage": {"uri": "s3://b", "endpoint": "s3.example"}}, "endpoint"),
        ({"defaultStorage": {"uri": "s3://b", "secretRef": {"name": "x"}}}, "secretRef"),
        ({"defaultStorage": {"secretName": "x"}}, "defaultStorage.uri: is required"),
        ({"dns": [{}]}, "dns"),
        ({"dns": [{"cidr": "10.0.0.10", "ports": [53]}]}, "cidr"),
        ({"egress": [{"except": []}]}, "cidr"),
        ({"egress": [{}]}, "cidr"),
        ({"egress": [{"ports": []}]}, "egress"),
        ({"egress": [{"cidr": "10.0.0.0/8", "podSelector": {}}]}, "egress"),
        ({"egress": [{"podSelector": {"app": "storage"}}]}, "podSelector"),
        ({"egress": [{"cidr": "everywhere"}]}, "cidr"),
        ({"egress": [{"cidr": "10.0.0.0/8", "port": 443}]}, "port"),
        ({"egress": [{"cidr": "10.0.0.0/8", "ports": ["https"]}]}, "ports"),
        ({"runAsUser": 0}, "runAsUser"),
        ({"pods": {"runAsUser": 0}}, "runAsUser"),
        ({"pods": {"gpuResource": "gpu"}}, "gpuResource"),
        ({"pods": {"cpuLimits": "yes"}}, "cpuLimits"),
        ({"pods": {"labels": {"a": 1}}}, "labels"),
        ({"pods": {"labels": {"app.kubernetes.io/created-by": "x"}}}, "labels"),
        ({"pods": {"annotations": {"ray.io/x": "y"}}}, "annotations"),
        ({"pods": {"env": [{"name": "HF_TOKEN", "value": "x"}]}}, "name"),
        ({"pods": {"env": [{"name": "PROMPTINTERN_JOB", "value": "x"}]}}, "name"),
        ({"pods": {"env": [{"name": "HF_ENDPOINT"}]}}, "value"),
        ({"pods": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}}, "valueFrom"),
        ({"podSizes": {"driver": {"cpu": "1", "memory": "1Gi"}}}, "driver"),
        ({"podSizes": {"head": {"memory": "4 GB"}}}, "memory"),
        ({"timing": {"stuckSeconds": "15m"}}, "stuckSeconds"),
        ({"timing": {"queueSeconds": 0}}, "queueSeconds"),
        ({"policies": {"images": {"enabled": True}}}, "images"),
        ({"policies": {"status": {"repairGroups": ["it's"]}}}, "repairGroups"),
        ({"metrics": {"serviceMonitor": {"interval": 30}}}, "interval"),
        ({"podDisruptionBudget": {"minAvailable": 1}}, "minAvailable"),
        ({"networkPolicy": {"apiServerPorts": []}}, "apiServerPorts"),
        ({"grafanaDashboard": {"labels": ["a"]}}, "labels"),
    ],
    ids=str,
)
def test_helm_refuses_and_names_the_value(helm: Helm, values: dict[str, Any], fragment: str) -> None:
    with pytest.raises(HelmFailed) as failed:
        helm.text(values=values)
    assert fragment in str(failed.value)
