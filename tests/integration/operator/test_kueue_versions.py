"""Kueue's Workloads in whatever version the API server prefers, also when Kueue is upgraded while the operator runs."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.client import wait_for
from tests.integration.operator.chart import CRDS, create_crd
from tests.integration.operator.fuzz.schemas import workloads_crd
from tests.integration.operator.kuberay import Life
from tests.integration.operator.place import Place, Tenant
from tests.integration.operator.process import Operator
from tests.integration.operator.requests import RAY_JOBS

DEFINITION = f"{CRDS}/workloads.kueue.x-k8s.io"
OLD, NEW = "v1beta1", "v1beta2"


@pytest.fixture(scope="module")
def operator(place: Place) -> Iterator[Operator]:
    process = place.operator("operator-kueue")  # with a separate log
    process.start()
    process.wait_until_leading(40)
    yield process
    assert process.stop() == 0


def waits_for(place: Place, team: Tenant, version: str, message: str) -> None:
    """Let Kueue say in ``version`` of its API that the job waits, and wait until the job says so."""
    path = f"/apis/kueue.x-k8s.io/{version}/namespaces/{team.name}/workloads"
    (ray_job,) = place.requests.items(RAY_JOBS.format(team.name))
    meta = ray_job["metadata"]
    if place.requests.find(f"{path}/of-queued") is None:
        owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": meta["name"], "uid": meta["uid"]}
        body: dict[str, Any] = {"apiVersion": f"kueue.x-k8s.io/{version}", "kind": "Workload"}
        body["metadata"] = {"name": "of-queued", "ownerReferences": [owner | {"controller": True}]}
        place.requests.ask("POST", path, body)
    condition = {
        **{"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message},
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    place.requests.merge(f"{path}/of-queued/status", {"status": {"conditions": [condition]}})
    wait_for(lambda: team.condition("queued", "QuotaReserved")[2] == f"queue team: {message}", 60, message)


def test_the_operator_follows_kueue_from_one_version_to_the_next(
    place: Place, operator: Operator, team: Tenant
) -> None:
    create_crd(place.requests, workloads_crd(OLD))
    try:
        team.submit("queued", Life(), labels={"kueue.x-k8s.io/queue-name": "team"})
        team.wait("queued", "Queued")
        waits_for(place, team, OLD, "in the old version")
        both = workloads_crd(NEW, OLD)["spec"]["versions"]
        place.requests.merge(DEFINITION, {"spec": {"versions": both}})
        waits_for(place, team, NEW, "in both versions")
        waits_for(place, team, OLD, "written in the old version")
        alone = [version | {"served": version["name"] == NEW} for version in both]
        place.requests.merge(DEFINITION, {"spec": {"versions": alone}})
        wait_for(lambda: place.requests.find(f"/apis/kueue.x-k8s.io/{OLD}") is None, 30, "the old version to go")
        waits_for(place, team, NEW, "in the new version alone")
        assert operator.alive
        assert len(operator.log_lines("leading")) == 1, "it was never restarted"
    finally:
        place.requests.ask("DELETE", DEFINITION)
    wait_for(lambda: place.requests.find(DEFINITION) is None, 30, "the CRD to go")
