"""A worker that comes to its memory limit, attempt after attempt: a part of `make e2e-faults`."""

from tests.e2e.short import SHORT
from tests.e2e.tenant import Team

_TOO_LITTLE = "1000Mi"
"""Ray starts with this, and the run does not fit, though some of it may."""


def test_a_worker_out_of_memory_is_named_after_the_budget(team: Team) -> None:
    resources = {"cpu": "500m", "memory": _TOO_LITTLE}
    name = team.submit(name="hungry", **{**SHORT, "compute__resources": resources, "retries": {"application": 1}})
    team.wait(name, seconds=900)
    failed = team.condition(name, "Failed")
    assert failed.get("status") == "True", team.told(name)
    assert failed["reason"] == "RetriesExhausted", failed
    assert "container ray-worker" in failed["message"]
    assert f"limit of {_TOO_LITTLE}" in failed["message"]
    assert "spec.compute.resources.memory" in failed["message"]
    assert [each["outcome"] for each in team.status(name)["attempts"]] == ["Application", "Application"]
