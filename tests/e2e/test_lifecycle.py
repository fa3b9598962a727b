"""What a user does to a job: suspend, resume, delete, mend a refused one."""

import json
from typing import Any

from tests.e2e.tenant import SECRET, Team
from tests.e2e.test_faults import _SHORT, until_training

_LEFT = (
    "rayjobs",
    "rayclusters",
    "pods",
    "jobs",
    "roles",
    "rolebindings",
    "serviceaccounts",
    "configmaps",
    "networkpolicies",
)


def patch(team: Team, name: str, spec: dict[str, Any]) -> None:
    """`kubectl patch` of the spec."""
    team.cluster.kubectl(
        "patch", "pij", name, "--namespace", team.namespace, "--type=merge", "-p", json.dumps({"spec": spec})
    )


def left_of(team: Team, name: str) -> list[str]:
    """All objects that still belong to a job."""
    found = []
    for kind in _LEFT:
        found += [
            f"{kind}/{o['metadata']['name']}"
            for o in team.cluster.list(kind, team.namespace, f"promptintern.dev/job={name}")
        ]
    return found


def test_a_suspended_job_gives_its_cluster_back_and_continues_where_it_was(team: Team) -> None:
    name = team.submit(name="paused", **_SHORT)
    until_training(team, name)
    patch(team, name, {"suspend": True})
    team.wait(name, seconds=180, until=("Suspended",))
    assert not [left for left in left_of(team, name) if left.startswith(("rayjobs", "rayclusters", "pods/paused-a"))]
    logs = team.files().glob(f"{team.run_folder(name)}/logs/{name}-a1/job-driver-*.log")
    assert logs, "the first attempt's log outlived its cluster"
    patch(team, name, {"suspend": False})
    team.wait(name, seconds=600)
    assert team.condition(name, "Succeeded").get("status") == "True", team.told(name)
    first, second = team.status(name)["attempts"]
    assert (first["outcome"], second["outcome"]) == ("Suspended", "Succeeded")
    log = b"".join(
        team.files().cat(p) for p in team.files().glob(f"{team.run_folder(name)}/logs/{name}-a2/job-driver-*.log")
    )
    assert b"continues after step" in log


def test_a_deleted_job_leaves_nothing_but_its_files(team: Team) -> None:
    name = team.submit(name="deleted", **_SHORT)
    until_training(team, name, stage=0, step=1)
    folder = team.run_folder(name)
    team.cluster.delete("pij", name, team.namespace)
    team.cluster.wait_for(lambda: not left_of(team, name), timeout=60, what=f"the end of {left_of(team, name)}")
    assert team.files().find(folder)


def test_a_refused_job_can_be_mended(team: Team) -> None:
    name = team.submit(name="mended", **{**_SHORT, "data__eval__uri": "sample://formulas/eval?world=1&rows=99999999"})
    team.wait(name, seconds=240, until=("Refused",))
    accepted = team.condition(name, "Accepted")
    assert accepted["status"] == "False"
    assert accepted["message"].startswith("spec.data"), accepted
    patch(team, name, {"data": {"eval": {"uri": "sample://formulas/eval?world=1&rows=1000"}}})
    team.wait(name, seconds=240, until=("Starting", "Training"))
    team.cluster.delete("pij", name, team.namespace)


def test_a_missing_secret_is_named_at_once(team: Team) -> None:
    storage = {"uri": f"s3://{team.account.bucket}/runs", "endpoint": team.cluster.s3.endpoint, "region": "us-east-1"}
    name = team.submit(name="keyless", storage={**storage, "secretRef": {"name": "forgotten"}})

    def told() -> bool:
        condition = team.condition(name, "Accepted")
        return condition.get("reason") == "CreateContainerConfigError" and "forgotten" in condition["message"]

    team.cluster.wait_for(told, timeout=120, what=f"the missing Secret: {team.told(name)}")
    team.cluster.delete("pij", name, team.namespace)


def test_wrong_keys_are_refused_before_a_cluster_is_made(team: Team) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    team.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "wrong", "namespace": team.namespace},
            "stringData": keys,
        }
    )
    storage = {"uri": f"s3://{team.account.bucket}/runs", "endpoint": team.cluster.s3.endpoint, "region": "us-east-1"}
    data = {"uri": f"s3://{team.account.bucket}/train.jsonl"}
    name = team.submit(name="locked-out", storage={**storage, "secretRef": {"name": "wrong"}}, data__train=data)
    team.wait(name, seconds=240, until=("Refused", "Failed"))
    assert team.status(name)["phase"] == "Refused", team.told(name)
    assert f"s3://{team.account.bucket}" in team.condition(name, "Accepted")["message"]
    assert not team.status(name).get("attempts")
    assert SECRET not in team.condition(name, "Accepted")["message"]
