"""Actions of the operator, with the chart's own rights, that a real API server denies."""

import pytest

from tests.cluster.client import wait_for
from tests.integration.operator.kuberay import Check
from tests.integration.operator.place import Place, Tenant
from tests.integration.operator.requests import MERGE, Body

RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}"
ALL = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
ADMIN = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
FOREIGN: dict[str, tuple[str, Body]] = {
    "ServiceAccount": ("/api/v1/namespaces/{}/serviceaccounts", {"apiVersion": "v1"}),
    # The operator could not grant what these two grant, and need not: it only reads them.
    "Role": (f"{RBAC}/roles", {"apiVersion": "rbac.authorization.k8s.io/v1", "rules": ALL}),
    "RoleBinding": (f"{RBAC}/rolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "roleRef": ADMIN}),
    "NetworkPolicy": (
        "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
        {"apiVersion": "networking.k8s.io/v1", "spec": {"podSelector": {}}},
    ),
}


pytestmark = pytest.mark.usefixtures("operator")


def test_a_quota_is_reported_at_once_until_it_is_raised(place: Place, team: Tenant) -> None:
    path = f"/api/v1/namespaces/{team.name}/resourcequotas"
    limits = {"count/jobs.batch": "0"}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": limits}}
    place.requests.ask("POST", path, quota)
    status = {"status": {"hard": limits, "used": limits}}  # no controller counts here
    place.requests.ask("PATCH", f"{path}/few/status", status, MERGE)
    team.submit("many")
    message = team.wait_for_condition("many", "Accepted", "QuotaExceeded")
    assert "exceeded quota: few" in message
    wait_for(lambda: "QuotaExceeded" in {reason for reason, _ in team.events("many")}, 10, "the Event")
    place.requests.ask("DELETE", f"{path}/few")
    team.wait("many", "Succeeded", 90)


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_object_is_neither_used_nor_changed(place: Place, team: Tenant, kind: str) -> None:
    path, rest = FOREIGN[kind]
    path = path.format(team.name)
    foreign = place.requests.ask("POST", path, {"kind": kind, "metadata": {"name": "promptintern-mine"}, **rest})
    team.submit("mine")
    # No check needs rights; the attempt does, before there is a RayJob.
    condition = "ClusterReady" if kind in ("Role", "RoleBinding") else "Accepted"
    assert f"{kind} promptintern-mine" in team.wait_for_condition("mine", condition, "NameTaken")
    assert team.ray_jobs() == []
    assert place.requests.ask("GET", f"{path}/promptintern-mine") == foreign
    if kind == "ServiceAccount":
        assert place.requests.find(f"{RBAC.format(team.name)}/rolebindings/promptintern-mine") is None
    place.requests.ask("DELETE", f"{path}/promptintern-mine")
    team.wait("mine", "Succeeded", 90)


def test_a_changed_spec_gets_another_config_map(place: Place, team: Tenant) -> None:
    place.kuberay.checks["mended-check-1"] = Check(findings='[{"where": "spec.x", "message": "is wrong"}]')
    team.submit("mended")
    team.wait("mended", "Refused")
    team.change("mended", training={"seed": 7})
    team.wait("mended", "Succeeded", 60)
    (config,) = place.requests.items(f"/api/v1/namespaces/{team.name}/configmaps")
    assert '"seed": 7' in config["data"]["job.json"]
    assert config["metadata"]["name"] == team.status("mended")["configMap"]
