"""A worker that passes its memory limit, again and again: a part of `make e2e-faults`."""

from tests.e2e.tenant import Team
from tests.e2e.test_faults import SHORT, until_training


def test_a_worker_out_of_memory_is_named_after_the_budget(team: Team) -> None:
    limits = {"cpu": "500m", "memory": "2Gi"}
    name = team.submit(name="hungry", **{**SHORT, "compute__resources": limits, "retries__application": 1})
    for number in (1, 2):
        until_training(team, name, stage=0, step=1, attempt=number)
        pod = team.pods(name, "worker")[-1]["metadata"]["name"]
        team.exec(pod, "ray-worker", "python -c \"kept = b'1' * (4 << 30)\" & sleep 20")
    team.wait(name, seconds=300)
    failed = team.condition(name, "Failed")
    assert failed.get("status") == "True", team.told(name)
    assert failed["reason"] == "OutOfMemory"
    assert "container ray-worker" in failed["message"]
    assert "its limit of 2Gi" in failed["message"]
    assert "spec.compute.resources.memory" in failed["message"]
    assert [each["outcome"] for each in team.status(name)["attempts"]] == ["Application", "Application"]
