"""Rights on one's own and on others' jobs, Secrets and pods; `pytest -s` prints the tables."""

import json
from typing import Any

import pytest

from tests.integration.isolation.conftest import OPERATOR, RBAC, RELEASE, SYSTEM, A, B, World, bind, job
from tests.integration.isolation.matrix import ALL, ask_all, table

STATUS = "promptinternjobs/status"
NOTHING: frozenset[tuple[str, str]] = frozenset()
OWN_STATUS = frozenset({(STATUS, "patch")})
EDITOR = ALL - {(STATUS, "update"), (STATUS, "patch")}
"""Everything but writing a status: `edit` does not allow it, and the policy denies everybody else."""


@pytest.mark.parametrize(
    ("who", "namespace", "name", "allowed"),
    [
        pytest.param("team-b's user", A, "one", NOTHING, id="user of team-b on job one of team-a"),
        pytest.param("head of bees", A, "one", NOTHING, id="head pod of team-b on job one of team-a"),
        pytest.param("no token", A, "one", NOTHING, id="worker of team-b on job one of team-a"),
        pytest.param("head of one", A, "two", NOTHING, id="head pod of job one on job two of the same team"),
        pytest.param("no token", A, "two", NOTHING, id="worker of job one on job two of the same team"),
        # These show that the requests are right, and that the tests can fail.
        pytest.param("team-b's user", B, "bees", EDITOR, id="user of team-b on its own job"),
        pytest.param("team-a's user", A, "two", EDITOR, id="user of team-a on its own job"),
        pytest.param("head of bees", B, "bees", OWN_STATUS, id="head pod of team-b on its own job"),
        pytest.param("head of one", A, "one", OWN_STATUS, id="head pod of job one on job one"),
        pytest.param("no token", B, "bees", NOTHING, id="worker of team-b on its own job"),
    ],
)
def test_the_matrix(
    world: World,
    request: pytest.FixtureRequest,
    who: str,
    namespace: str,
    name: str,
    allowed: frozenset[tuple[str, str]],
) -> None:
    cells = ask_all(world, who, namespace, name)
    print(table(request.node.callspec.id, cells))
    assert cells == {cell: "allowed" if cell in allowed else "denied" for cell in ALL}


def test_an_administrator_may_do_all(world: World) -> None:
    """The requests themselves are valid."""
    assert set(ask_all(world, "admin", A, "one").values()) == {"allowed"}


def test_a_pod_without_a_token_reaches_the_api_server(world: World) -> None:
    assert world.ask("no token", "GET", "/version").code == 200


def test_only_the_head_has_a_token(world: World) -> None:
    for name, expected in (("one-head", ["api-token"]), ("one-worker", [])):
        pod = world.server.get("pod", name, A)
        assert pod is not None
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        sources = {
            volume["name"]
            for volume in spec["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
            if "serviceAccountToken" in source
        }
        assert list(sources) == expected


def test_a_user_of_a_team_cannot_use_another_s_secret_by_a_job(world: World) -> None:
    """A reference has a name but no namespace."""
    elsewhere = job("thief", storage={"uri": "s3://bucket/runs", "secretRef": {"name": "s3", "namespace": A}})
    path = f"/apis/promptintern.dev/v1alpha1/namespaces/{B}/promptinternjobs?dryRun=All&fieldValidation=Strict"
    answer = world.ask("team-b's user", "POST", path, elsewhere)
    assert answer.code == 400 and 'unknown field "spec.storage.secretRef.namespace"' in answer.message


def test_a_user_cannot_give_itself_more(world: World) -> None:
    """RBAC lets nobody grant rights that they lack, and `edit` may grant none."""
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "more"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "team-b's user"}],
    }
    for namespace in (A, B):
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings?dryRun=All"
        assert world.ask("team-b's user", "POST", path, binding).code == 403


# Secrets: a job may name those that its author may read, and the operator may read none.

DEVELOPER = "developer"


@pytest.fixture(scope="module")
def developer(world: World) -> World:
    """A user of team-a who may create jobs and pods, and read only Secret `mine`."""
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
    """Run `kubectl apply` as the developer, as a dry run, and return its output."""
    kubeconfig = str(world.server.kubeconfig_for(DEVELOPER))
    words = ("--kubeconfig", kubeconfig, "apply", "--dry-run=server", "--namespace", A, "-f", "-")
    return world.server.kubectl(*words, input=json.dumps(document), check=False)


def storage(secret: str) -> dict[str, Any]:
    """Return storage with credentials."""
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
    output = apply(developer, job("borrowed", **spec))
    assert f"{where}: {DEVELOPER} may not get Secret" in output and "Forbidden" in output, output


def test_a_job_with_a_secret_that_its_author_may_read_is_accepted(developer: World) -> None:
    document = job("own", storage=storage("mine"))
    developer.server.wait_for(lambda: "created" in apply(developer, document), timeout=15)


VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "*")


def test_the_operator_can_do_nothing_to_secrets(world: World) -> None:
    namespaces = [cells["metadata"]["name"] for cells in world.server.list("namespaces")]
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
        ("create", "rayjobs", "ray.io", True),  # this shows that the review works
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
def test_the_operator_cannot_reach_secrets_indirectly(
    world: World, verb: str, resource: str, group: str, expected: bool
) -> None:
    assert world.allows(OPERATOR, verb, resource, group=group, namespace=A) is expected


def test_the_operator_cannot_grant_rights_that_it_lacks(world: World) -> None:
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
