"""The views of API objects that are complete, new, or half empty."""

from datetime import UTC, datetime
from typing import Any

import pytest
from promptintern_operator.views import controller_of, pod_view, preflight_view, ray_job_view, workload_view

LABELS = {"promptintern.dev/job": "small", "promptintern.dev/job-uid": "uid-of-job"}
META = {"name": "it", "namespace": "team-a", "uid": "uid-of-it", "creationTimestamp": "2026-01-02T03:04:05Z"}


def _meta(**more: Any) -> dict[str, Any]:
    return {**META, "labels": dict(LABELS), **more}


def test_a_new_ray_job() -> None:
    view = ray_job_view({"metadata": _meta(), "spec": {"suspend": True}})
    assert (view.name, view.uid) == ("it", "uid-of-it")
    assert view.suspended
    assert not view.deleting
    assert (view.deployment, view.job_status, view.reason, view.message, view.cluster) == ("", "", "", "", None)


def test_a_failed_ray_job_that_is_being_deleted() -> None:
    view = ray_job_view(
        {
            "metadata": _meta(deletionTimestamp="2026-01-02T04:00:00Z", finalizers=["ray.io/rayjob-finalizer"]),
            "spec": {"entrypoint": "x"},
            "status": {
                "jobId": "it-1",
                "jobDeploymentStatus": "Failed",
                "jobStatus": "FAILED",
                "reason": "AppFailed",
                "message": "Job failed with exit code 1",
                "rayClusterName": "it-raycluster-x7",
                "failed": 1,
            },
        }
    )
    assert view.deleting
    assert not view.suspended
    assert (view.deployment, view.job_status, view.reason) == ("Failed", "FAILED", "AppFailed")
    assert view.cluster == "it-raycluster-x7"


@pytest.mark.parametrize("status", [{}, {"status": None}, {"status": {"jobStatus": "", "rayClusterName": ""}}])
def test_a_ray_job_without_a_status(status: dict[str, Any]) -> None:
    view = ray_job_view({"metadata": {**META, "labels": None, "deletionTimestamp": None}, "spec": {}, **status})
    assert (view.deployment, view.cluster, view.deleting) == ("", None, False)


HEAD = {
    "metadata": _meta(
        labels={**LABELS, "promptintern.dev/role": "head", "ray.io/cluster": "it-raycluster-x7"},
        ownerReferences=[{"kind": "RayCluster", "name": "it-raycluster-x7", "uid": "u", "controller": True}],
    ),
    "spec": {
        "nodeName": "node-1",
        "containers": [{"name": "ray-head", "resources": {"limits": {"cpu": "1", "memory": "4Gi"}}}],
        "initContainers": [{"name": "logs", "restartPolicy": "Always", "resources": {"limits": {"memory": "256Mi"}}}],
    },
    "status": {
        "phase": "Running",
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-02T03:04:06Z"},
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:09Z"},
        ],
        "initContainerStatuses": [
            {
                "name": "logs",
                "restartCount": 2,
                "state": {"running": {"startedAt": "2026-01-02T03:05:07Z"}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            }
        ],
        "containerStatuses": [
            {"name": "ray-head", "restartCount": 0, "ready": True, "state": {"running": {}}, "lastState": {}}
        ],
    },
}


def test_a_head_pod_that_runs() -> None:
    view = pod_view(HEAD)
    assert (view.role, view.cluster, view.node, view.phase) == ("head", "it-raycluster-x7", "node-1", "Running")
    assert view.created == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert view.ready
    assert (view.unschedulable, view.disrupted, view.reason) == (None, None, None)
    ray, logs = view.containers
    assert (ray.name, ray.exit_code, ray.memory_limit) == ("ray-head", None, "4Gi")
    assert (logs.name, logs.exit_reason, logs.memory_limit) == ("logs", "OOMKilled", "256Mi")


def test_a_pod_belongs_to_what_controls_it_whatever_its_labels_say() -> None:
    meta = {name: value for name, value in HEAD["metadata"].items() if name != "ownerReferences"}
    assert pod_view({**HEAD, "metadata": meta}).cluster is None
    owner = {"kind": "Job", "name": "it-check-1", "uid": "check-uid", "controller": True}
    of_check = pod_view({**HEAD, "metadata": {**meta, "ownerReferences": [owner]}})
    assert (of_check.cluster, of_check.preflight_uid) == (None, "check-uid")
    assert (
        pod_view({**HEAD, "metadata": {**meta, "ownerReferences": [owner | {"controller": False}]}}).preflight_uid
        is None
    )


@pytest.mark.parametrize(
    ("label", "controller", "role"),
    [
        ("head", "RayCluster", "head"),
        ("worker", "RayCluster", "worker"),
        ("preflight", "RayCluster", "worker"),
        (None, "RayCluster", "worker"),
        ("preflight", "Job", "preflight"),
        ("worker", "Job", "preflight"),
        ("head", "Job", "preflight"),
        (None, "Job", "preflight"),
    ],
)
def test_no_label_makes_a_check_part_of_an_attempt_or_an_attempt_part_of_a_check(
    label: str | None, controller: str, role: str
) -> None:
    labels = {"promptintern.dev/role": label} if label else {}
    owner = {"kind": controller, "name": "x", "uid": "y", "controller": True}
    meta = {**HEAD["metadata"], "labels": labels, "ownerReferences": [owner]}
    assert pod_view({**HEAD, "metadata": meta}).role == role


def test_an_unschedulable_pod() -> None:
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    view = pod_view({**HEAD, "spec": {"containers": []}, "status": {"phase": "Pending", "conditions": [condition]}})
    assert view.unschedulable == message
    assert view.node is None
    assert not view.ready
    assert view.containers == ()


def test_a_pod_that_waits_for_its_image() -> None:
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x"'}
    status = {"phase": "Pending", "containerStatuses": [{"name": "ray-head", "state": {"waiting": waiting}}]}
    (ray,) = pod_view({**HEAD, "status": status}).containers
    assert (ray.waiting_reason, ray.waiting_message) == tuple(waiting.values())
    assert ray.exit_code is None


def test_a_pod_that_the_scheduler_preempted() -> None:
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "m"}
    status = {"phase": "Failed", "reason": "Evicted", "message": "low on disk", "conditions": [taken]}
    view = pod_view({**HEAD, "status": status})
    assert (view.disrupted, view.reason, view.message) == ("PreemptionByScheduler", "Evicted", "low on disk")
    not_now = pod_view({**HEAD, "status": {"conditions": [taken | {"status": "False"}]}})
    assert not_now.disrupted is None


def test_a_container_that_ended_keeps_its_termination_message() -> None:
    ended = {"exitCode": 2, "reason": "Error", "message": "[]", "finishedAt": "2026-01-02T03:09:05Z"}
    status = {"phase": "Failed", "containerStatuses": [{"name": "check", "state": {"terminated": ended}}]}
    (check,) = pod_view({**HEAD, "status": status}).containers
    assert (check.exit_code, check.exit_reason, check.exit_message, check.memory_limit) == (2, "Error", "[]", None)


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"status": None},
        {"status": {"conditions": None, "containerStatuses": None, "initContainerStatuses": None}},
        {"spec": {"containers": None, "initContainers": None}},
        {"spec": {"containers": [{"name": "x", "resources": None}]}, "status": {"containerStatuses": [{"name": "x"}]}},
    ],
)
def test_a_pod_with_an_empty_status(rest: dict[str, Any]) -> None:
    view = pod_view({"metadata": _meta(), **rest})
    assert (view.phase, view.role, view.ready, view.cluster) == ("Pending", "worker", False, None)
    assert all(each.exit_code is None and each.memory_limit is None for each in view.containers)


def _check(*conditions: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {
        "metadata": _meta(annotations={"promptintern.dev/generation": "3"}, **meta),
        "status": {"conditions": list(conditions)},
    }


def test_a_check_that_runs_ends_or_fails() -> None:
    at = "2026-01-02T03:09:05Z"
    view = preflight_view(_check({"type": "Complete", "status": "True", "lastTransitionTime": at}))
    assert (view.generation, view.number, view.succeeded, view.failed, view.failed_at) == (3, 1, True, None, None)
    why = {"type": "Failed", "status": "True", "message": "exit code 2", "lastTransitionTime": at}
    view = preflight_view(_check({"type": "FailureTarget", "status": "True", "lastTransitionTime": at}, why))
    assert (view.succeeded, view.failed, view.timed_out) == (False, "exit code 2", False)
    assert preflight_view(_check(why | {"reason": "DeadlineExceeded"})).timed_out
    assert view.failed_at == datetime(2026, 1, 2, 3, 9, 5, tzinfo=UTC)
    view = preflight_view(_check(why | {"status": "False"}, deletionTimestamp=at))
    assert (view.succeeded, view.failed, view.deleting) == (False, None, True)
    again = {"promptintern.dev/generation": "3", "promptintern.dev/try": "2"}
    assert preflight_view({"metadata": _meta(annotations=again)}).number == 2


@pytest.mark.parametrize(
    ("owners", "uid"),
    [
        (None, None),
        ([{"kind": "RayJob", "uid": "a"}], None),
        ([{"kind": "RayJob", "uid": "a"}, {"kind": "PromptInternJob", "uid": "b", "controller": True}], "b"),
    ],
)
def test_the_owner_of_an_object_is_its_controller(owners: list[dict[str, Any]] | None, uid: str | None) -> None:
    assert controller_of(_meta(ownerReferences=owners)).get("uid") == uid


@pytest.mark.parametrize("status", [{}, {"status": None}, {"status": {"conditions": None}}])
def test_a_check_without_a_status(status: dict[str, Any]) -> None:
    view = preflight_view({"metadata": _meta(annotations=None), **status})
    assert (view.generation, view.succeeded, view.failed) == (0, False, None)


def _workload(*conditions: dict[str, Any]) -> dict[str, Any]:
    owners = [{"kind": "Other", "uid": "x"}, {"kind": "RayJob", "name": "it", "uid": "uid-of-ray-job"}]
    return {"metadata": _meta(ownerReferences=owners), "status": {"conditions": list(conditions)}}


def test_a_workload_waits_is_admitted_and_evicted() -> None:
    waits = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": "insufficient quota"}
    view = workload_view(_workload(waits))
    assert (view.ray_job_uid, view.quota_reserved, view.message) == ("uid-of-ray-job", False, "insufficient quota")
    reserved = {"type": "QuotaReserved", "status": "True", "reason": "QuotaReserved", "message": "in ClusterQueue x"}
    admitted = {"type": "Admitted", "status": "True", "reason": "Admitted"}
    view = workload_view(_workload(reserved, admitted))
    assert (view.quota_reserved, view.evicted) == (True, None)
    evicted = {"type": "Evicted", "status": "True", "reason": "Preempted", "message": "by another"}
    assert workload_view(_workload(waits, evicted)).evicted == "Preempted"
    assert workload_view(_workload(waits, evicted | {"status": "False"})).evicted is None


@pytest.mark.parametrize("rest", [{}, {"status": None}, {"status": {"conditions": None}}])
def test_a_workload_without_a_status(rest: dict[str, Any]) -> None:
    view = workload_view({"metadata": {**META, "ownerReferences": None}, **rest})
    assert (view.ray_job_uid, view.quota_reserved, view.evicted, view.message) == (None, False, None, "")


def test_the_end_times_of_a_ray_job_and_a_pod() -> None:
    worker = {"name": "ray-worker", "resources": {"limits": {"memory": "8Gi"}}}
    cluster = {"workerGroupSpecs": [{"template": {"spec": {"containers": [worker]}}}]}
    view = ray_job_view(
        {
            "metadata": _meta(),
            "spec": {"rayClusterSpec": cluster},
            "status": {"endTime": "2026-01-02T04:00:00Z"},
        }
    )
    assert (view.worker_memory, view.ended) == ("8Gi", datetime(2026, 1, 2, 4, tzinfo=UTC))
    leaving = _meta(deletionTimestamp="2026-01-02T04:01:00Z", deletionGracePeriodSeconds=60)
    assert pod_view({"metadata": leaving}).deletion_requested == datetime(2026, 1, 2, 4, tzinfo=UTC)
    assert pod_view({"metadata": _meta()}).deletion_requested is None
