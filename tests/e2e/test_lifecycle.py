"""What users do to a job: suspend, resume and delete it, and correct one that was refused."""

import json

import pytest

from tests.cluster.errors import CommandFailed
from tests.e2e.short_job import SHORT, wait_until_training
from tests.e2e.tenant import Team

_KINDS = (
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


def remaining_objects(team: Team, name: str) -> list[str]:
    """All objects that still belong to a job."""
    objects = []
    for kind in _KINDS:
        objects += [
            f"{kind}/{o['metadata']['name']}"
            for o in team.cluster.list(kind, team.namespace, f"promptintern.dev/job={name}")
        ]
    return objects


def test_a_suspended_job_releases_its_cluster_and_resumes_where_it_was(team: Team) -> None:
    name = team.submit(name="paused", **SHORT)
    wait_until_training(team, name)
    team.patch(name, {"suspend": True})
    team.wait(name, seconds=60, until=("Suspended",))
    assert not [
        left for left in remaining_objects(team, name) if left.startswith(("rayjobs", "rayclusters", "pods/paused-a"))
    ]
    logs = team.files.glob(f"{team.run_folder(name)}/logs/{name}-a1/job-driver-*.log")
    assert logs, "the first attempt's log was lost with its cluster"
    team.patch(name, {"suspend": False})
    team.wait(name, seconds=600)
    assert team.condition(name, "Succeeded").get("status") == "True", team.describe(name)
    first, second = team.status(name)["attempts"]
    assert (first["outcome"], second["outcome"]) == ("Suspended", "Succeeded")
    log = b"".join(
        team.files.cat(p) for p in team.files.glob(f"{team.run_folder(name)}/logs/{name}-a2/job-driver-*.log")
    )
    assert b"continues after step" in log


def test_a_deleted_job_leaves_nothing_but_its_files(team: Team) -> None:
    name = team.submit(name="deleted", **SHORT)
    wait_until_training(team, name, stage=0, step=1)
    folder = team.run_folder(name)
    team.cluster.delete("pij", name, team.namespace)
    team.cluster.wait_for(
        lambda: not remaining_objects(team, name), timeout=60, what=f"the end of {remaining_objects(team, name)}"
    )
    assert team.files.find(folder)


def test_a_refused_job_can_be_corrected(team: Team) -> None:
    name = team.submit(name="mended", **{**SHORT, "data__eval__uri": "sample://formulas/eval?world=1&rows=99999999"})
    team.wait(name, seconds=240, until=("Refused",))
    accepted = team.condition(name, "Accepted")
    assert accepted["status"] == "False"
    assert accepted["message"].startswith("spec.data"), accepted
    team.patch(name, {"data": {"eval": {"uri": "sample://formulas/eval?world=1&rows=1000"}}})
    team.wait(name, seconds=240, until=("Starting", "Training"))
    team.cluster.delete("pij", name, team.namespace)


def test_a_missing_secret_is_named_at_once(team: Team) -> None:
    name = team.submit(name="keyless", storage=team.storage("forgotten"))

    def is_reported() -> bool:
        condition = team.condition(name, "Accepted")
        return condition.get("reason") == "CreateContainerConfigError" and "forgotten" in condition["message"]

    team.cluster.wait_for(is_reported, timeout=120, what=f"the missing Secret: {team.describe(name)}")
    team.cluster.delete("pij", name, team.namespace)


def test_wrong_keys_are_refused_before_a_cluster_is_created(team: Team) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "not-for-anybody"}
    team.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "wrong", "namespace": team.namespace},
            "stringData": keys,
        }
    )
    data = {"uri": f"s3://{team.account.bucket}/train.jsonl"}
    name = team.submit(name="locked-out", storage=team.storage("wrong"), data__train=data)
    team.wait(name, seconds=240, until=("Refused", "Failed"))
    assert team.status(name)["phase"] == "Refused", team.describe(name)
    assert f"s3://{team.account.bucket}" in team.condition(name, "Accepted")["message"]
    assert not team.status(name).get("attempts")
    assert keys["AWS_SECRET_ACCESS_KEY"] not in json.dumps(team.job(name))


def test_a_job_past_its_deadline_ends_and_is_deleted_after_its_ttl(team: Team) -> None:
    name = team.submit(name="late", activeDeadlineSeconds=45, ttlSecondsAfterFinished=30, **SHORT)
    team.wait(name, seconds=400)
    failed = team.condition(name, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "DeadlineExceeded"), team.describe(name)
    assert "45 s" in failed["message"]
    folder = team.run_folder(name)
    gone = lambda: team.cluster.get("pij", name, team.namespace) is None and not remaining_objects(team, name)  # noqa: E731
    team.cluster.wait_for(gone, timeout=30 + 60, what=f"the end of {name} and of {remaining_objects(team, name)}")
    assert team.files.find(folder), "its files were deleted"


def test_a_rayjob_that_kuberay_refuses_fails_the_job_at_once(team: Team) -> None:
    name = team.submit(name="refused", **{**SHORT, "compute__rayVersion": "2.9.0"})
    team.wait(name, seconds=300)
    failed = team.condition(name, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "Refused"), team.describe(name)
    assert "KubeRay refuses the RayJob" in failed["message"]
    assert "2.9.0" in failed["message"]
    assert len(team.status(name)["attempts"]) == 1, "KubeRay would refuse another attempt as well"

    def clusters() -> list[str]:
        return [entry for entry in remaining_objects(team, name) if entry.startswith(("rayjobs", "rayclusters"))]

    team.cluster.wait_for(lambda: not clusters(), timeout=60, what=f"the end of {clusters()}")


def test_a_head_that_cannot_start_is_reported_with_its_limit(team: Team) -> None:
    resources = {"cpu": "200m", "memory": "120Mi"}
    name = team.submit(
        name="tiny-head", **{**SHORT, "compute__headResources": resources, "retries": {"application": 0}}
    )
    team.wait(name, seconds=300)
    failed = team.condition(name, "Failed")
    assert failed.get("status") == "True", team.describe(name)
    assert "container ray-head" in failed["message"], failed
    assert "its memory limit of 120Mi" in failed["message"], failed
    assert "spec.compute.headResources.memory" in failed["message"]


def test_pods_that_a_limit_range_refuses_are_reported_and_created_once_allowed(team: Team) -> None:
    limit = {"type": "Container", "max": {"memory": "2500Mi"}}
    limits = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "small-pods", "namespace": team.namespace},
        "spec": {"limits": [limit]},
    }
    team.cluster.apply([limits])

    def is_reported() -> bool:
        condition = team.condition(name, "ClusterReady")
        return condition.get("reason") == "PodsRefused" and "maximum memory usage" in condition["message"]

    try:
        name = team.submit(name="too-large", **SHORT)
        team.cluster.wait_for(is_reported, timeout=240, what="a condition that names the LimitRange")
    finally:
        team.cluster.delete("limitrange", "small-pods", team.namespace)
    team.wait(name, seconds=300, until=("Training",))
    team.cluster.delete("pij", name, team.namespace)


def test_while_kuberay_is_stopped_a_condition_names_what_waits_for_it(team: Team) -> None:
    name = team.submit(name="held", **SHORT)
    wait_until_training(team, name, stage=0, step=1)
    with pytest.raises(CommandFailed, match="cannot change once the job has been accepted"):
        team.patch(name, {"training": {"seed": 7}})
    ray_job = team.status(name)["attempts"][0]["rayJobName"]
    team.cluster.stop_kuberay()
    try:
        team.patch(name, {"suspend": True})

        def is_reported() -> bool:
            messages = [condition.get("message", "") for condition in team.status(name).get("conditions", [])]
            return any(ray_job in message and "KubeRay" in message for message in messages)

        team.cluster.wait_for(is_reported, timeout=60, what=f"a condition that names the RayJob: {team.describe(name)}")
    finally:
        team.cluster.start_kuberay()
    # A restarted KubeRay first waits until its predecessor's lease expires.
    team.wait(name, seconds=120, until=("Suspended",))
    team.cluster.delete("pij", name, team.namespace)
    team.cluster.wait_for(
        lambda: not remaining_objects(team, name), timeout=60, what=f"the end of {remaining_objects(team, name)}"
    )


def test_a_check_whose_pod_a_quota_refuses_is_reported_and_continues_without_the_quota(team: Team) -> None:
    meta = {"name": "nothing", "namespace": team.namespace}
    team.cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {"pods": "0"}}})
    try:
        name = team.submit(name="crowded-out", **SHORT)

        def is_reported() -> bool:
            return team.condition(name, "Accepted").get("reason") == "CheckHasNoPod"

        team.cluster.wait_for(is_reported, timeout=300, what=f"Accepted, CheckHasNoPod: {team.describe(name)}")
        assert f"kubectl describe job {name}-check-1" in team.condition(name, "Accepted")["message"]
    finally:
        team.cluster.delete("resourcequota", "nothing", team.namespace)
    team.wait(name, seconds=900, until=("Starting", "Training", "Failed"))
    assert team.condition(name, "Accepted").get("status") == "True", team.describe(name)
    team.cluster.delete("pij", name, team.namespace)
