"""Secrets: a job may name those that its author may read, and the operator may read none."""

import json
from typing import Any

import pytest

from tests.integration.isolation.conftest import OPERATOR, RBAC, RELEASE, SYSTEM, A, B, World, bind, job

DEVELOPER = "developer"


@pytest.fixture(scope="module")
def developer(world: World) -> World:
    """Somebody of team-a who may make jobs and pods, and read Secret `mine` alone."""
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["get"]},
    ]
    world.server.apply(
        [
            {
                "apiVersion": f"{RBAC}/v1",
                "kind": "Role",
                "metadata": {"name": DEVELOPER, "namespace": A},
                "rules": rules,
            },
            bind(A, DEVELOPER, "Role", DEVELOPER, DEVELOPER),
            *(
                bind(A, f"{DEVELOPER}-{what}", "ClusterRole", f"{RELEASE}-{what}", DEVELOPER)
                for what in ("edit", "view")
            ),
        ]
    )
    return world


def apply(world: World, document: dict[str, Any]) -> str:
    """`kubectl apply` as the developer, as a dry run."""
    kubeconfig = str(world.server.kubeconfig_for(DEVELOPER))
    words = ("--kubeconfig", kubeconfig, "apply", "--dry-run=server", "--namespace", A, "-f", "-")
    return world.server.kubectl(*words, input=json.dumps(document), check=False)


def storage(secret: str) -> dict[str, Any]:
    """Storage with credentials."""
    return {"uri": "s3://bucket/runs", "secretRef": {"name": secret}}


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"storage": storage("s3")}, "spec.storage.secretRef.name"),
        (
            {"storage": storage("mine"), "model": {"uri": "hf://acme/gated", "secretRef": {"name": "hub"}}},
            "spec.model.secretRef.name",
        ),
        (
            {"storage": storage("mine"), "compute": {"imagePullSecrets": [{"name": "mine"}, {"name": "registry"}]}},
            "spec.compute.imagePullSecrets[1].name",
        ),
    ],
)
def test_a_job_with_a_secret_that_its_author_may_not_read_is_refused(
    developer: World, spec: dict[str, Any], where: str
) -> None:
    said = apply(developer, job("borrowed", **spec))
    assert f"{where}: {DEVELOPER} may not get Secret" in said and "Forbidden" in said, said


def test_a_job_with_a_secret_that_its_author_may_read_is_taken(developer: World) -> None:
    document = job("own", storage=storage("mine"))
    developer.server.wait_for(lambda: "created" in apply(developer, document), timeout=15)


VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "*")


def test_the_operator_can_do_nothing_to_secrets(world: World) -> None:
    namespaces = [found["metadata"]["name"] for found in world.server.list("namespaces")]
    assert {A, B, SYSTEM, "default", "kube-system"} <= set(namespaces)
    allowed = [
        (verb, namespace, name)
        for verb in VERBS
        for namespace in ("", *namespaces)
        for name in ("", "s3")
        if world.allows(OPERATOR, verb, "secrets", namespace=namespace, name=name)
    ]
    print(
        f"\n{OPERATOR} on secrets: {len(VERBS)} verbs in {len(namespaces)} namespaces and in all: {allowed or 'none'}"
    )
    assert allowed == []


@pytest.mark.parametrize(
    ("verb", "resource", "group", "expected"),
    [
        ("create", "rayjobs", "ray.io", True),  # what shows that the question is right
        ("patch", "promptinternjobs/status", "promptintern.dev", True),
        ("create", "pods", "", False),
        ("create", "pods/exec", "", False),
        ("get", "configmaps", "", False),
        ("create", "serviceaccounts/token", "", False),
        ("impersonate", "serviceaccounts", "", False),
        ("update", "rayjobs", "ray.io", False),
        ("update", "promptinternjobs", "promptintern.dev", False),
        ("bind", "clusterroles", RBAC, False),
        ("escalate", "roles", RBAC, False),
    ],
)
def test_ways_around(world: World, verb: str, resource: str, group: str, expected: bool) -> None:
    assert world.allows(OPERATOR, verb, resource, group=group, namespace=A) is expected


def test_the_operator_cannot_grant_what_it_has_not(world: World) -> None:
    role = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "Role",
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
    }
    answer = world.ask("operator", "POST", f"/apis/{RBAC}/v1/namespaces/{A}/roles?dryRun=All", role)
    assert answer.code == 403 and "attempting to grant RBAC permissions not currently held" in answer.message
    secret = {"secretKeyRef": {"name": "s3", "key": "key"}}
    reads = [{"name": "x", "image": "x", "env": [{"name": "KEY", "valueFrom": secret}]}]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader"}, "spec": {"containers": reads}}
    assert world.ask("operator", "POST", f"/api/v1/namespaces/{A}/pods?dryRun=All", pod).code == 403
