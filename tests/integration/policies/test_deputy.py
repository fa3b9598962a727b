"""A job may name only what its author could use without the operator."""

from typing import Any

import pytest

from tests.integration.policies.conftest import DEFAULT_SECRET, RBAC, World, binding, job, may, person

PULL_SECRETS = [f"pull-{number}" for number in range(16)]
"""The largest number of Secrets that the API allows."""


@pytest.fixture(scope="module")
def people(world: World) -> World:
    """Authors with more and with fewer rights, and a job of the author who has all rights."""
    secrets = ("s3", "hub", DEFAULT_SECRET, *PULL_SECRETS)
    person(
        world,
        "all",
        [may("create", "pods"), may("get", "secrets", *secrets), may("get", "persistentvolumeclaims", "models")],
    )
    person(world, "pods-only", [may("create", "pods")])
    person(world, "all-but-one", [may("create", "pods"), may("get", "secrets", *PULL_SECRETS[:-1])])
    person(world, "list-only", [may("create", "pods"), may("list", "secrets"), may("watch", "secrets")])
    person(world, "identities", [may("create", "pods"), may("create", "serviceaccounts")])
    person(world, "no-pods", [may("get", "secrets", *secrets)])
    person(world, "no-jobs", [may("create", "pods"), may("get", "secrets")], jobs=False)
    world.server.wait_for(
        lambda: "denied request" in world.create("no-pods", job("probe")).message, what="the deputy policy"
    )
    answer = world.create("all", job("kept", model=HUB), keep=True)
    assert answer.status == 201, answer
    return world


def storage(secret: str) -> dict[str, Any]:
    """Return storage with credentials."""
    return {"uri": "s3://bucket/runs", "secretRef": {"name": secret}}


def pulling(*secrets: str) -> dict[str, Any]:
    """Return a compute section whose image needs pull Secrets."""
    return {"imagePullSecrets": [{"name": secret} for secret in secrets]}


HUB = {"uri": "hf://org/model", "secretRef": {"name": "hub"}}
IDENTITY = {"serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/runs"}}
CACHE = {"modelCache": {"claimName": "models"}}


@pytest.mark.parametrize(
    ("author", "spec", "refusal"),
    [
        ("all", {}, None),
        ("all", {"storage": storage("s3")}, None),
        (
            "all",
            {"storage": storage("s3-of-others")},
            "spec.storage.secretRef.name: {} may not get Secret s3-of-others",
        ),
        ("all", {"model": HUB}, None),
        ("all", {"compute": CACHE}, None),
        ("all", {"compute": pulling(*PULL_SECRETS)}, None),
        ("all", {"compute": pulling(*PULL_SECRETS) | CACHE, "model": HUB, "storage": None}, None),
        ("all", {"storage": None}, None),
        ("pods-only", {}, None),
        ("pods-only", {"storage": storage("s3")}, "spec.storage.secretRef.name: {} may not get Secret s3 in namespace"),
        ("pods-only", {"model": HUB}, "spec.model.secretRef.name: {} may not get Secret hub in namespace"),
        (
            "pods-only",
            {"compute": CACHE},
            "spec.compute.modelCache.claimName: {} may not get PersistentVolumeClaim models in namespace",
        ),
        ("pods-only", {"compute": pulling("pull-0")}, "spec.compute.imagePullSecrets[0].name: {} may not get Secret"),
        ("pods-only", {"storage": None}, f"default storage is used): {{}} may not get Secret {DEFAULT_SECRET}"),
        ("all-but-one", {"compute": pulling(*PULL_SECRETS[:-1])}, None),
        (
            "all-but-one",
            {"compute": pulling(*PULL_SECRETS)},
            "spec.compute.imagePullSecrets[15].name: {} may not get Secret pull-15",
        ),
        ("list-only", {"storage": storage("s3")}, "spec.storage.secretRef.name: {} may not get Secret s3 in namespace"),
        ("identities", {"compute": IDENTITY}, None),
        (
            "all",
            {"compute": IDENTITY},
            "spec.compute.serviceAccountAnnotations: {} may not create ServiceAccounts in namespace",
        ),
        ("no-pods", {}, "spec: {} may not create pods in namespace"),
        ("no-pods", {"storage": storage("s3")}, "spec: {} may not create pods in namespace"),
        ("no-jobs", {}, "cannot create resource"),
    ],
)
def test_creating(people: World, author: str, spec: dict[str, Any], refusal: str | None) -> None:
    answer = people.create(author, job("new", **spec))
    if refusal is None:
        assert answer.status == 201, answer
    else:
        user = f"system:serviceaccount:{people.tenant}:{author}"
        assert answer.status == 403 and refusal.format(user) in answer.message, answer


@pytest.mark.parametrize(
    ("author", "patch", "refused"),
    [
        ("pods-only", {"metadata": {"labels": {"team": "a"}}}, False),
        ("pods-only", {"metadata": {"finalizers": ["example.org/hold"]}}, False),
        ("pods-only", {"metadata": {"annotations": {"note": "x"}}}, False),
        ("pods-only", {"metadata": {"annotations": {"promptintern.dev/retry": "now"}}}, True),  # it starts pods
        ("all", {"metadata": {"annotations": {"promptintern.dev/retry": "now"}}}, False),
        ("pods-only", {"spec": {"suspend": False}}, False),  # the Secret has not changed
        ("pods-only", {"spec": {"retries": {"application": 5}}}, True),
        ("pods-only", {"spec": {"compute": {"workers": 8}}}, True),
        ("pods-only", {"spec": {"model": {"secretRef": None}}}, False),  # the Secret is no longer used
        ("no-pods", {"spec": {"suspend": True}}, True),
        ("all", {"spec": {"suspend": True}}, False),
        ("all", {"spec": {"storage": storage("s3")}}, False),
        ("all", {"spec": {"storage": storage("s3-of-others")}}, True),
    ],
)
def test_changing_the_job_of_another(people: World, author: str, patch: dict[str, Any], refused: bool) -> None:
    path = people.jobs("kept") + "?dryRun=All"
    answer = people.ask(author, "PATCH", path, patch, "application/merge-patch+json")
    assert answer.status == (403 if refused else 200), answer
    assert not refused or "-deputy" in answer.message


def test_the_operator_is_not_asked_for_rights_to_what_an_author_was_admitted_with(people: World) -> None:
    meta = {"name": "operator-edits", "namespace": people.tenant}
    account = {"kind": "ServiceAccount", "name": "promptintern", "namespace": people.release_namespace}
    rules = [may(verb, "promptinternjobs", group="promptintern.dev") for verb in ("create", "patch")]
    people.server.apply(
        [
            {"apiVersion": RBAC, "kind": "Role", "metadata": meta, "rules": rules},
            binding(meta, "Role", "operator-edits", [account]),
        ]
    )
    patch = {"spec": {"suspend": True}}
    path = people.jobs("kept") + "?dryRun=All"

    def status() -> int:
        return people.ask("operator", "PATCH", path, patch, "application/merge-patch+json").status

    people.server.wait_for(lambda: status() == 200, timeout=10, what="the operator's change")
    answer = people.create("operator", job("new"))  # the operator has no reason to create jobs
    assert answer.status == 403 and "-deputy" in answer.message, answer


def test_a_namespace_that_the_release_does_not_serve_is_left_alone(people: World) -> None:
    path = people.jobs(namespace=people.release_namespace) + "?dryRun=All"
    meta = {"name": "elsewhere", "namespace": people.release_namespace}
    rules = [may("create", "promptinternjobs", group="promptintern.dev")]
    account = {"kind": "ServiceAccount", "name": "no-pods", "namespace": people.tenant}
    people.server.apply(
        [
            {"apiVersion": RBAC, "kind": "Role", "metadata": meta, "rules": rules},
            binding(meta, "Role", "elsewhere", [account]),
        ]
    )
    people.server.wait_for(lambda: people.ask("no-pods", "POST", path, job("new")).status == 201, timeout=10)
