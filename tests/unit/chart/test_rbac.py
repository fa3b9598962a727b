"""The operator has the rights that it needs, and no others."""

import pytest
from promptintern_api import parse_job
from promptintern_operator import kube
from promptintern_operator.manifests.identity import role

from tests.unit.chart.conftest import NAMED, NAMESPACE, Helm, Manifest, Values, of_kind

NEEDED = {
    ("promptintern.dev", "promptinternjobs"): {"get", "list", "watch", "delete"},
    ("promptintern.dev", "promptinternjobs/status"): {"patch"},
    ("ray.io", "rayjobs"): {"get", "list", "watch", "create", "delete"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"list", "watch"},
    ("kueue.x-k8s.io", "workloads"): {"list", "watch"},
    ("", "configmaps"): {"create", "patch", "delete"},
    ("", "serviceaccounts"): {"create", "patch"},
    ("rbac.authorization.k8s.io", "roles"): {"create", "patch"},
    ("rbac.authorization.k8s.io", "rolebindings"): {"create", "patch"},
    ("networking.k8s.io", "networkpolicies"): {"create", "patch"},
    ("events.k8s.io", "events"): {"create"},
}
DEFINITIONS = {("apiextensions.k8s.io", "customresourcedefinitions"): {"get", "list", "watch"}}
LEASES = {("coordination.k8s.io", "leases"): {"create", "get", "update", "delete"}}


def _granted(rules: list[Manifest]) -> dict[tuple[str, str], set[str]]:
    granted: dict[tuple[str, str], set[str]] = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                granted.setdefault((group, resource), set()).update(rule["verbs"])
    return granted


def _of_the_operator(objects: list[Manifest]) -> dict[tuple[str, str | None], dict[tuple[str, str], set[str]]]:
    """Return the rights of the operator's ServiceAccount, by the kind and namespace of the binding."""
    (deployment,) = of_kind(objects, "Deployment")
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    roles = {
        (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]): item["rules"]
        for item in of_kind(objects, "Role", "ClusterRole")
    }
    granted: dict[tuple[str, str | None], dict[tuple[str, str], set[str]]] = {}
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        if {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE} in binding["subjects"]:
            namespace, ref = binding["metadata"].get("namespace"), binding["roleRef"]
            rules = roles[ref["kind"], namespace if ref["kind"] == "Role" else None, ref["name"]]
            granted.setdefault((binding["kind"], namespace), {}).update(_granted(rules))
    return granted


@pytest.mark.parametrize(
    ("values", "granted"),
    [
        ({}, {("ClusterRoleBinding", None): NEEDED | DEFINITIONS, ("RoleBinding", NAMESPACE): LEASES}),
        ({"leaderElection": False, "replicas": 1}, {("ClusterRoleBinding", None): NEEDED | DEFINITIONS}),
        (
            {"namespaces": ["team-a", "team-b"]},
            {("RoleBinding", "team-a"): NEEDED, ("RoleBinding", "team-b"): NEEDED, ("RoleBinding", NAMESPACE): LEASES},
        ),
        (
            {"namespaces": ["team-a"], "rbac": {"readDefinitions": True}},
            {
                ("RoleBinding", "team-a"): NEEDED,
                ("ClusterRoleBinding", None): DEFINITIONS,
                ("RoleBinding", NAMESPACE): LEASES,
            },
        ),
        ({"namespaces": [NAMESPACE]}, {("RoleBinding", NAMESPACE): NEEDED | LEASES}),
    ],
    ids=["cluster", "cluster, one replica", "namespaces", "namespaces and definitions", "its own namespace"],
)
def test_the_operator_has_exactly_these_rights(
    helm: Helm, values: Values, granted: dict[tuple[str, str | None], dict[tuple[str, str], set[str]]]
) -> None:
    assert _of_the_operator(helm.objects(values=values)) == granted


def test_nobody_gets_secrets_escalation_or_wildcards(rendered: list[Manifest]) -> None:
    for item in of_kind(rendered, "Role", "ClusterRole"):
        for (group, resource), verbs in _granted(item["rules"]).items():
            assert "*" not in {group, resource, *verbs}, item["metadata"]["name"]
            assert resource.split("/")[0] != "secrets", item["metadata"]["name"]
            assert not verbs & {"escalate", "bind", "impersonate"}, item["metadata"]["name"]


def test_tenants_may_write_jobs_but_no_status(rendered: list[Manifest]) -> None:
    tenants = [
        item
        for item in of_kind(rendered, "ClusterRole")
        if any("aggregate-to" in label for label in item["metadata"]["labels"])
    ]
    assert len(tenants) == 2
    for item in tenants:
        granted = _granted(item["rules"])
        assert granted.get(("promptintern.dev", "promptinternjobs/status"), set()) <= {"get", "list", "watch"}


def test_the_operator_has_the_rights_that_it_grants() -> None:
    """RBAC refuses a Role with rights that its author does not have."""
    job = parse_job(
        {
            "apiVersion": "promptintern.dev/v1alpha1",
            "kind": "PromptInternJob",
            "metadata": {"name": "a", "namespace": "team-a", "uid": "0" * 8},
            "spec": {
                "model": {"uri": "sample://formulas"},
                "data": {"train": {"uri": "s3://b/t"}, "eval": {"uri": "s3://b/e"}},
                "prompt": {"template": "{examples}{query}"},
            },
        }
    )
    for key, verbs in _granted(role(job)["rules"]).items():
        assert verbs <= NEEDED[key]


def test_every_resource_that_the_operator_uses_is_covered() -> None:
    resources = [value for value in vars(kube).values() if isinstance(value, kube.Resource)]
    used = {*resources, *kube._BY_KIND.values()}
    covered = NEEDED | DEFINITIONS
    for resource in used:
        group = resource.api_version.rpartition("/")[0]
        assert (group, resource.plural) in covered


@pytest.mark.parametrize("name", NAMED)
def test_only_unavoidable_objects_are_cluster_scoped(helm: Helm, name: str) -> None:
    """With `namespaces`, these are the CRD, the policies, the ClusterRoles for tenants, and the right to read CRDs."""
    values = NAMED[name]
    kinds = {item["kind"] for item in helm.objects(values=values) if "namespace" not in item["metadata"]}
    allowed = {
        "CustomResourceDefinition",
        "ClusterRole",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    if not values.get("namespaces") or "rbac" in values:
        allowed.add("ClusterRoleBinding")
    assert kinds == allowed
