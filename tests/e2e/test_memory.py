"""A worker that exceeds its memory limit in every attempt; `make e2e-faults` runs this."""

from tests.e2e.short_job import SHORT
from tests.e2e.tenant import Team

_TOO_LITTLE = "1000Mi"
"""Enough memory for Ray to start, but not for the run."""


def test_a_worker_out_of_memory_is_named_once_the_retries_are_exhausted(team: Team) -> None:
    resources = {"cpu": "500m", "memory": _TOO_LITTLE}
    name = team.submit(name="hungry", **{**SHORT, "compute__resources": resources, "retries": {"application": 1}})
    team.wait(name, seconds=900)
    failed = team.condition(name, "Failed")
    assert failed.get("status") == "True", team.describe(name)
    assert failed["reason"] == "RetriesExhausted", failed
    assert "container ray-worker" in failed["message"]
    assert f"limit of {_TOO_LITTLE}" in failed["message"]
    assert "spec.compute.resources.memory" in failed["message"]
    assert [attempt["outcome"] for attempt in team.status(name)["attempts"]] == ["Application", "Application"]
