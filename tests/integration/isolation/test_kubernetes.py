"""Who may do what to whose jobs, Secrets and pods; `pytest -s` prints the tables."""

import pytest

from tests.integration.isolation.conftest import A, B, World, job
from tests.integration.isolation.matrix import ALL, ask_all, table

STATUS = "promptinternjobs/status"
NOTHING: frozenset[tuple[str, str]] = frozenset()
OWN_STATUS = frozenset({(STATUS, "patch")})
EDITOR = ALL - {(STATUS, "update"), (STATUS, "patch")}
"""All but writing a status: `edit` gives no right to it, and the policy lets nobody else."""


@pytest.mark.parametrize(
    ("who", "namespace", "name", "allowed"),
    [
        pytest.param("team-b's user", A, "one", NOTHING, id="user of team-b on job one of team-a"),
        pytest.param("head of bees", A, "one", NOTHING, id="head pod of team-b on job one of team-a"),
        pytest.param("no token", A, "one", NOTHING, id="worker of team-b on job one of team-a"),
        pytest.param("head of one", A, "two", NOTHING, id="head pod of job one on job two of the same team"),
        pytest.param("no token", A, "two", NOTHING, id="worker of job one on job two of the same team"),
        # What shows that the requests are right, and that these tests can fail.
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
    found = ask_all(world, who, namespace, name)
    print(table(request.node.callspec.id, found))
    assert found == {cell: "allowed" if cell in allowed else "denied" for cell in ALL}


def test_an_administrator_may_do_all(world: World) -> None:
    """The requests themselves are good ones."""
    assert set(ask_all(world, "admin", A, "one").values()) == {"allowed"}


def test_who_has_no_token_is_heard_all_the_same(world: World) -> None:
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
    """A reference holds a name and no namespace."""
    elsewhere = job("thief", storage={"uri": "s3://bucket/runs", "secretRef": {"name": "s3", "namespace": A}})
    path = f"/apis/promptintern.dev/v1alpha1/namespaces/{B}/promptinternjobs?dryRun=All&fieldValidation=Strict"
    answer = world.ask("team-b's user", "POST", path, elsewhere)
    assert answer.code == 400 and 'unknown field "spec.storage.secretRef.namespace"' in answer.message


def test_a_user_cannot_give_itself_more(world: World) -> None:
    """RBAC lets nobody grant what it has not, and `edit` may grant nothing."""
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
