"""Views of watched objects, with only the fields that the operator needs, because there may be thousands of objects."""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from promptintern_api.contract import (
    ANNOTATION_GENERATION,
    ANNOTATION_RUN_FORMAT,
    ANNOTATION_TRY,
    CHECK_CONTAINER,
    HEAD_CONTAINER,
    LABEL_QUEUE,
    LABEL_ROLE,
    WORKER_CONTAINER,
    PodRole,
)

from promptintern_operator.parsing import parse

Body = Mapping[str, Any]

_FIRST_YEAR, _LAST_YEAR = 1970, 2999
"""The years of valid times. Near the ends of Python's range of years, arithmetic with a time may overflow."""
_LONGEST_GRACE = 366 * 86_400
"""The longest grace period in seconds that is believed."""
_MAIN_CONTAINERS = (HEAD_CONTAINER, WORKER_CONTAINER, CHECK_CONTAINER)
_KEPT_BYTES = 16 * 2**10
"""The largest compressed job that is kept. There may be thousands of jobs with templates of 256 KiB."""


@dataclass(frozen=True, kw_only=True)
class JobView:
    """The view of a PromptInternJob, with the whole job in compressed form unless the job is large."""

    uid: str
    version: str
    """The resource version of the job."""
    generation: int
    deleting: bool
    phase: str
    attempted: bool
    """Whether the job has had an attempt."""
    packed: bytes | None
    """The whole job, as compressed JSON, or None if the job is too large to be kept."""

    def body(self) -> dict[str, Any] | None:
        """Return the whole job, or None if the job is too large to be kept."""
        return parse(zlib.decompress(self.packed)) if self.packed is not None else None


@dataclass(frozen=True, kw_only=True)
class RayJobView:
    """The view of a RayJob."""

    name: str
    uid: str
    created: datetime
    deleting: bool
    suspended: bool
    """Whether ``spec.suspend`` is set, by the operator at creation or by Kueue later."""
    deployment: str
    """The ``jobDeploymentStatus`` that KubeRay reports, or "" before KubeRay reports one."""
    job_status: str
    """The status of the job that Ray reports, or "" before Ray reports one."""
    reason: str
    message: str
    run_format: str | None
    """The ``RUN_FORMAT`` of the operator that created the RayJob, or None if that operator was too old to have one."""
    cluster: str | None
    ended: datetime | None
    """The time at which Ray's job ended."""
    worker_memory: str | None
    """The memory limit of each worker's container."""
    queue: str | None
    """The name of the Kueue queue, from a label that is only ever set at creation."""
    pod_refusal: str | None
    """The message of KubeRay if it cannot create or delete pods of the cluster, else None."""


@dataclass(frozen=True, kw_only=True)
class ContainerView:
    """The view of a container, with the reason why it waits and the way it last ended."""

    name: str
    waiting_reason: str | None
    waiting_message: str | None
    exit_code: int | None
    exit_reason: str | None
    """The reason for which the container last ended, such as OOMKilled, Error or Completed."""
    exit_message: str | None
    ended_at: datetime | None
    memory_limit: str | None


@dataclass(frozen=True, kw_only=True)
class PodView:
    """The view of a pod of a job: the head, a worker or the preflight."""

    name: str
    uid: str
    role: str
    """The role of the pod: ``head``, ``worker`` or ``preflight``."""
    cluster: str | None
    """The name of the RayCluster that controls the pod, or None if none does."""
    preflight_uid: str | None
    """The uid of the preflight that controls the pod, or None if none does."""
    created: datetime
    deleting: bool
    deletion_requested: datetime | None
    """The time at which deletion was requested."""
    deletion_due: datetime | None
    """The time by which the pod must be gone; the pod stays longer only if its kubelet does not respond."""
    phase: str
    reason: str | None
    """The reason of the pod's phase, such as Evicted or NodeLost."""
    message: str | None
    """The explanation of the kubelet or of condition DisruptionTarget for the reason, else None."""
    node: str | None
    ready: bool
    unschedulable: str | None
    """The message of the scheduler if it found no node for the pod, else None."""
    disrupted: str | None
    """The reason why the cluster removed the pod, such as a preemption, from condition DisruptionTarget."""
    containers: tuple[ContainerView, ...]

    @property
    def main(self) -> ContainerView | None:
        """The container that runs Ray or the check, or None if the kubelet has not reported it yet.

        The others are the log shipper and whatever the cluster injects into pods, such as the proxy of a service mesh.
        """
        return next((container for container in self.containers if container.name in _MAIN_CONTAINERS), None)


@dataclass(frozen=True, kw_only=True)
class PreflightView:
    """The view of the Job that checks a PromptInternJob before any GPU is paid for."""

    name: str
    uid: str
    generation: int
    number: int
    """The number of the check among the checks of its generation, from 1; a check that was lost is repeated."""
    started: datetime | None
    """The time at which the check was allowed to start, which is later than its creation if it waited for Kueue."""
    deleting: bool
    queued: bool
    """Whether the check is waiting for Kueue to admit it."""
    succeeded: bool
    failed: str | None
    """The message of the Job's condition Failed, or None if the Job has not failed."""
    timed_out: bool
    """Whether the check failed because it exceeded its time limit."""
    failed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class WorkloadView:
    """The view of the Kueue Workload of a RayJob."""

    name: str
    ray_job_uid: str | None
    quota_reserved: bool
    evicted: str | None
    """The reason of the eviction if the Workload is evicted now, else None."""
    message: str
    """Kueue's message about the quota."""


def pack(job: bytes) -> bytes | None:
    """Return the JSON of a job in compressed form, or None if the job is too large to be kept."""
    packed = zlib.compress(job, level=1)
    return packed if len(packed) <= _KEPT_BYTES else None


def ray_job_view(body: Body) -> RayJobView:
    """Return the view of a ray.io/v1 RayJob."""
    meta, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    refusal = _condition(status.get("rayClusterStatus") or {}, "ReplicaFailure")
    return RayJobView(
        name=meta["name"],
        uid=meta["uid"],
        created=_created(meta),
        deleting=_is_deleting(meta),
        suspended=bool(spec.get("suspend")),
        deployment=status.get("jobDeploymentStatus") or "",
        job_status=status.get("jobStatus") or "",
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        run_format=(meta.get("annotations") or {}).get(ANNOTATION_RUN_FORMAT),
        cluster=status.get("rayClusterName") or None,
        ended=parse_time(status.get("endTime")),
        worker_memory=_worker_memory(spec),
        queue=_label(meta, LABEL_QUEUE),
        pod_refusal=refusal.get("message") if refusal.get("status") == "True" else None,
    )


def pod_view(body: Body) -> PodView:
    """Return the view of a v1 Pod."""
    meta, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    scheduled = _condition(status, "PodScheduled")
    disrupted = _condition(status, "DisruptionTarget")
    limits = {
        container["name"]: ((container.get("resources") or {}).get("limits") or {}).get("memory")
        for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    }
    statuses = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    controller = controller_of(meta)
    return PodView(
        name=meta["name"],
        uid=meta["uid"],
        role=_role(meta, controller),
        cluster=controller.get("name") if controller.get("kind") == "RayCluster" else None,
        preflight_uid=controller.get("uid") if controller.get("kind") == "Job" else None,
        created=_created(meta),
        deleting=_is_deleting(meta),
        deletion_requested=_deletion_requested(meta),
        deletion_due=parse_time(meta.get("deletionTimestamp")),
        phase=status.get("phase") or "Pending",
        reason=status.get("reason"),
        message=status.get("message") or (disrupted.get("message") if disrupted.get("status") == "True" else None),
        node=spec.get("nodeName"),
        ready=_condition(status, "Ready").get("status") == "True",
        unschedulable=scheduled.get("message") if scheduled.get("reason") == "Unschedulable" else None,
        disrupted=disrupted.get("reason") if disrupted.get("status") == "True" else None,
        containers=tuple(_container(item, limits.get(item["name"])) for item in statuses),
    )


def preflight_view(body: Body) -> PreflightView:
    """Return the view of a batch/v1 Job."""
    meta, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    failed = _condition(status, "Failed")
    return PreflightView(
        name=meta["name"],
        uid=meta["uid"],
        generation=_number(meta, ANNOTATION_GENERATION, 0),
        number=_number(meta, ANNOTATION_TRY, 1),
        started=parse_time(status.get("startTime")),
        deleting=_is_deleting(meta),
        queued=bool(spec.get("suspend")),
        succeeded=_condition(status, "Complete").get("status") == "True",
        failed=failed.get("message", "the Job failed") if failed.get("status") == "True" else None,
        timed_out=failed.get("status") == "True" and failed.get("reason") == "DeadlineExceeded",
        failed_at=parse_time(failed.get("lastTransitionTime")) if failed.get("status") == "True" else None,
    )


def workload_view(body: Body) -> WorkloadView:
    """Return the view of a kueue.x-k8s.io Workload."""
    meta, status = body["metadata"], body.get("status") or {}
    reserved = _condition(status, "QuotaReserved")
    evicted = _condition(status, "Evicted")
    return WorkloadView(
        name=meta["name"],
        ray_job_uid=ray_job_uid_of(meta),
        quota_reserved=reserved.get("status") == "True",
        evicted=evicted.get("reason") if evicted.get("status") == "True" else None,
        message=str(reserved.get("message", "")),
    )


def parse_time(text: object) -> datetime | None:
    """Parse a time in the format of the API server, or return None if it is none. Tenants may write anything."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment is not None and _FIRST_YEAR <= moment.year <= _LAST_YEAR else None


def controller_of(meta: Body) -> Body:
    """Return the controlling owner reference, or {} if there is none. Labels prove nothing, as anybody can set them."""
    return next((owner for owner in meta.get("ownerReferences") or [] if owner.get("controller")), {})


def ray_job_uid_of(meta: Body) -> str | None:
    """Return the uid of the RayJob that owns a Workload, or None if no RayJob does."""
    owners = meta.get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("kind") == "RayJob"), None)


def _container(item: Body, memory: str | None) -> ContainerView:
    state = item.get("state") or {}
    waiting = state.get("waiting") or {}
    ended = state.get("terminated") or (item.get("lastState") or {}).get("terminated") or {}
    return ContainerView(
        name=item["name"],
        waiting_reason=waiting.get("reason"),
        waiting_message=waiting.get("message"),
        exit_code=ended.get("exitCode"),
        exit_reason=ended.get("reason"),
        exit_message=ended.get("message"),
        ended_at=parse_time(ended.get("finishedAt")),
        memory_limit=memory,
    )


def _worker_memory(spec: Body) -> str | None:
    groups = (spec.get("rayClusterSpec") or {}).get("workerGroupSpecs") or [{}]
    containers = ((groups[0].get("template") or {}).get("spec") or {}).get("containers") or [{}]
    limit = ((containers[0].get("resources") or {}).get("limits") or {}).get("memory")
    return str(limit) if limit is not None else None


def _deletion_requested(meta: Body) -> datetime | None:
    """Return when the deletion was requested; the deletionTimestamp of a pod is the end of its grace period."""
    due = parse_time(meta.get("deletionTimestamp"))
    grace = min(max(meta.get("deletionGracePeriodSeconds") or 0, 0), _LONGEST_GRACE)
    return due - timedelta(seconds=grace) if due is not None else None


def _role(meta: Body, controller: Body) -> str:
    """Return the role of a pod. Anybody may change its label, so the check's pods are known by their controller."""
    if controller.get("kind") == "Job":
        return PodRole.PREFLIGHT
    return PodRole.HEAD if _label(meta, LABEL_ROLE) == PodRole.HEAD else PodRole.WORKER


def _created(meta: Body) -> datetime:
    """Return the time of creation, which the API server sets."""
    created = parse_time(meta["creationTimestamp"])
    if created is None:
        raise ValueError(f"the creationTimestamp {meta['creationTimestamp']!r:.100} is no time")
    return created


def _is_deleting(meta: Body) -> bool:
    return meta.get("deletionTimestamp") is not None


def _label(meta: Body, name: str) -> str | None:
    return (meta.get("labels") or {}).get(name)


def _number(meta: Body, annotation: str, default: int) -> int:
    """Return the number in an annotation, or ``default`` if there is none; tenants may write anything there."""
    text = (meta.get("annotations") or {}).get(annotation, "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else default


def _condition(status: Body, kind: str) -> Body:
    conditions: Sequence[Body] = status.get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == kind), {})
