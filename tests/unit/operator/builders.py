"""Short builders of jobs and observed objects, and a job that is reconciled again and again."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from promptintern_api import PromptInternJob, parse_job
from promptintern_api.status import PromptInternJobStatus
from promptintern_operator.plan import Denial, KubeRay, Limits, Observed, Plan, plan
from promptintern_operator.views import ContainerView, PodView, PreflightView, RayJobView, WorkloadView

from tests.unit.api.documents import small_job, with_changes

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
JOB_UID = "0b3ac4fe-1111-2222-3333-444455556666"
QUEUE_LABEL = {"kueue.x-k8s.io/queue-name": "team-a"}
NO_KUBERAY = KubeRay(usable=False, reason="KubeRayMissing", message="KubeRay is not installed")
LIMITS = Limits(stuck=900, queue=30, silent=60, settle=0, retry=10, retry_max=600, kuberay_namespace="kuberay")
"""Limits without the wait for the pods of a failed RayJob, which only one file of tests is about."""


def job(*, name: str = "small", labels: dict[str, str] | None = None, **spec: Any) -> PromptInternJob:
    """Return a job as the API server stores it; ``compute__workers=2`` changes spec.compute.workers."""
    changes = {f"spec.{path.replace('__', '.')}": value for path, value in spec.items()}
    document = with_changes(small_job(), changes)
    document["metadata"] = {"name": name, "namespace": "team-a", "uid": JOB_UID, "labels": labels or {}}
    return parse_job(document)


def ray_job(number: int = 1, deployment: str = "Running", job_status: str = "", **more: Any) -> RayJobView:
    defaults: dict[str, Any] = {
        "name": f"small-a{number}",
        "uid": f"ray-job-{number}",
        "created": NOW,
        "deleting": False,
        "suspended": False,
        "deployment": deployment,
        "job_status": job_status,
        "reason": "",
        "message": "",
        "cluster": f"cluster-{number}",
        "ended": None,
        "worker_memory": "8Gi",
        "queue": None,
        "run_format": "2.1",
        "pod_refusal": None,
    }
    return RayJobView(**(defaults | more))


def container(name: str = "ray-head", **more: Any) -> ContainerView:
    defaults: dict[str, Any] = {
        "name": name,
        "waiting_reason": None,
        "waiting_message": None,
        "exit_code": None,
        "exit_reason": None,
        "exit_message": None,
        "ended_at": None,
        "memory_limit": "4Gi",
    }
    return ContainerView(**(defaults | more))


def pod(name: str = "head", *, role: str = "head", attempt: int = 1, **more: Any) -> PodView:
    defaults: dict[str, Any] = {
        "name": name,
        "uid": f"uid-of-{name}",
        "role": role,
        "cluster": f"cluster-{attempt}" if role != "preflight" else None,
        "preflight_uid": None,
        "created": NOW,
        "deleting": False,
        "deletion_requested": None,
        "deletion_due": None,
        "phase": "Running",
        "reason": None,
        "message": None,
        "node": "node-1",
        "ready": True,
        "unschedulable": None,
        "disrupted": None,
        "containers": (container(f"ray-{role}"),),
    }
    return PodView(**(defaults | more))


def waiting_pod(name: str = "head", *, role: str = "head", reason: str, message: str = "", **more: Any) -> PodView:
    """Return a pod whose container cannot start."""
    waits = container(f"ray-{role}", waiting_reason=reason, waiting_message=message)
    return pod(name, role=role, phase="Pending", ready=False, containers=(waits,), **more)


def preflight(generation: int = 1, number: int = 1, **more: Any) -> PreflightView:
    suffix = f"-{number}" if number > 1 else ""
    defaults: dict[str, Any] = {
        "name": f"small-check-{generation}" + suffix,
        "uid": f"check-{generation}" + suffix,
        "generation": generation,
        "number": number,
        "started": NOW,
        "deleting": False,
        "queued": False,
        "succeeded": False,
        "failed": None,
        "timed_out": False,
        "failed_at": NOW if more.get("failed") else None,
    }
    return PreflightView(**(defaults | more))


def preflight_pod(generation: int = 1, *, name: str = "x1", **more: Any) -> PodView:
    """Return a pod of the preflight; ``exit_code`` and the like are fields of its container."""
    of_container = {key: more.pop(key) for key in list(more) if key.startswith(("exit_", "waiting_"))}
    ended = "exit_code" in of_container
    defaults: dict[str, Any] = {
        "preflight_uid": f"check-{generation}",
        "phase": "Failed" if ended else "Pending",
        "ready": False,
        "containers": (container("check", **of_container),),
    }
    return pod(f"small-check-{generation}-{name}", role="preflight", **(defaults | more))


def workload(number: int = 1, **more: Any) -> WorkloadView:
    defaults: dict[str, Any] = {
        "name": f"rayjob-small-a{number}",
        "ray_job_uid": f"ray-job-{number}",
        "quota_reserved": False,
        "evicted": None,
        "message": "",
    }
    return WorkloadView(**(defaults | more))


def observed(*objects: object, kuberay: KubeRay | None = None) -> Observed:
    """Return the observed objects, given in any order."""
    return Observed(
        ray_jobs=tuple(each for each in objects if isinstance(each, RayJobView)),
        pods=tuple(each for each in objects if isinstance(each, PodView)),
        preflights=tuple(each for each in objects if isinstance(each, PreflightView)),
        workloads=tuple(each for each in objects if isinstance(each, WorkloadView)),
        kuberay=kuberay or KubeRay(usable=True),
        denial=next((each for each in objects if isinstance(each, Denial)), None),
    )


@dataclass
class Story:
    """A job over time: each plan starts from the status of the previous one, as in the cluster."""

    job: PromptInternJob = field(default_factory=job)
    now: datetime = NOW
    generation: int = 1
    status: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    """The trainer's part of the status."""
    limits: Limits = LIMITS

    def reconcile(self, *objects: object, after: float = 0, kuberay: KubeRay | None = None, **more: Any) -> Plan:
        """Plan for the job ``after`` seconds, and return the plan."""
        self.now += timedelta(seconds=after)
        status = self.status | ({"training": self.training} if self.training else {})
        result = plan(
            self.job.model_copy(update={"status": PromptInternJobStatus.model_validate(status)}),
            observed(*objects, kuberay=kuberay),
            generation=self.generation,
            now=self.now,
            limits=self.limits,
            **more,
        )
        self.status = result.status
        return result

    def change(self, **spec: Any) -> None:
        """Change the spec as a user does with ``kubectl apply``, which increments the generation."""
        changed = self.job.spec.model_validate_json(job(**spec).spec.model_dump_json(by_alias=True))
        self.job = self.job.model_copy(update={"spec": changed})
        self.generation += 1

    @property
    def phase(self) -> str:
        return str(self.status["phase"])

    @property
    def attempts(self) -> list[dict[str, Any]]:
        return list(self.status.get("attempts", []))

    @property
    def attempt(self) -> dict[str, Any]:
        return self.attempts[-1]

    def condition(self, kind: str) -> tuple[str, str] | None:
        """Return status and reason of a condition."""
        return next(((c["status"], c["reason"]) for c in self.status["conditions"] if c["type"] == kind), None)

    def message(self, kind: str) -> str:
        """Return the message of a condition."""
        return next(str(c["message"]) for c in self.status["conditions"] if c["type"] == kind)


def accepted(**about: Any) -> Story:
    """Return a job whose preflight succeeded and whose first RayJob is being created."""
    story = Story(job=job(**about))
    story.reconcile(preflight(succeeded=True))
    return story


def running(**about: Any) -> Story:
    """Return a job whose first RayJob runs with a head and a worker."""
    story = accepted(**about)
    story.reconcile(*CLUSTER)
    return story


HEAD = pod()
WORKER = pod("worker", role="worker")
CLUSTER = (ray_job(deployment="Running", job_status="RUNNING"), HEAD, WORKER)
"""The objects of the first attempt while it trains."""


def failed(number: int = 1, message: str = "", **more: Any) -> RayJobView:
    """Return the RayJob of an attempt that failed."""
    return ray_job(number, "Failed", "FAILED", message=message, **more)


def crashed(number: int = 1, code: int = 1) -> RayJobView:
    """Return a RayJob whose trainer exited with ``code``."""
    return failed(number, f"Job entrypoint command failed with exit code {code}, last available logs:\nboom")


def renamed(view: PodView, **changes: Any) -> PodView:
    """Return ``view`` with ``changes``."""
    return replace(view, **changes)
