"""GPUs advertised on a node that has none: requests are scheduled, and a job that finds no GPU reports that."""

from collections.abc import Iterator

import pytest

from tests.e2e.tenant import Team

_GPUS = {"device": "Auto", "resources": {"cpu": "100m", "memory": "3Gi"}}


@pytest.fixture(scope="module")
def two_gpus(team: Team) -> Iterator[Team]:
    """The team, while the node advertises two GPUs."""
    team.cluster.advertise_gpus(2)
    yield team
    team.cluster.advertise_gpus(0)


def test_a_job_with_too_many_gpus_stays_pending_and_names_what_is_missing(two_gpus: Team) -> None:
    team = two_gpus
    name = team.submit(name="greedy", compute={**_GPUS, "gpusPerWorker": 3})

    def is_reported() -> bool:
        condition = team.condition(name, "ClusterReady")
        return condition.get("reason") == "Unschedulable" and "nvidia.com/gpu" in condition["message"]

    team.cluster.wait_for(is_reported, timeout=240, what=f"ClusterReady=False, Unschedulable: {team.describe(name)}")
    assert team.status(name)["phase"] == "Starting"
    team.cluster.delete("pij", name, team.namespace)


def test_a_pod_without_its_requested_gpu_fails_at_once(two_gpus: Team) -> None:
    team = two_gpus
    name = team.submit(name="blind", compute={**_GPUS, "gpusPerWorker": 1})
    team.wait(name, seconds=300)
    failed = team.condition(name, "Failed")
    assert failed.get("status") == "True", team.describe(name)
    assert failed["reason"] == "Refused"
    assert "spec.compute.gpusPerWorker" in failed["message"]
    assert "compute.device: CPU" in failed["message"]
    assert len(team.status(name)["attempts"]) == 1, "another attempt would not find a GPU either"
