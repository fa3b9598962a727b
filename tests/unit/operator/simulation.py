"""A small model of a job's environment: RayJobs, pods, check, queue, user, KubeRay, and an operator that may stop."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from promptintern_api import PromptInternJob
from promptintern_api.contract import ANNOTATION_RETRY
from promptintern_api.status import PromptInternJobStatus
from promptintern_operator.plan import (
    Action,
    DeleteJob,
    DeletePreflight,
    DeleteRayJob,
    Denial,
    Observed,
    Plan,
    StartAttempt,
    StartPreflight,
    plan,
)
from promptintern_operator.plan.denials import denial_for
from promptintern_operator.views import PodView, PreflightView, RayJobView, WorkloadView

from tests.unit.operator import builders
from tests.unit.operator.builders import LIMITS, NO_KUBERAY, NOW, QUEUE_LABEL

ENDED = ("Complete", "Failed")
_MESSAGES = {
    "crashed": "Job failed with exit code 1, logs:\nboom",
    "refused": "Job failed with exit code 2, logs:\nno",
    "lost": "the actor died",
}


@dataclass
class Cluster:
    """The objects in the API server."""

    ray_jobs: dict[str, RayJobView] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    preflights: dict[str, PreflightView] = field(default_factory=dict)
    workloads: dict[str, WorkloadView] = field(default_factory=dict)
    kuberay: bool = True

    def seen(self) -> Observed:
        return Observed(
            ray_jobs=tuple(self.ray_jobs.values()),
            pods=tuple(self.pods.values()),
            preflights=tuple(self.preflights.values()),
            workloads=tuple(self.workloads.values()),
            kuberay=builders.observed().kuberay if self.kuberay else NO_KUBERAY,
        )


@dataclass
class World:
    """The environment of one job. Every method is one incident."""

    job: PromptInternJob
    now: datetime = NOW
    generation: int = 1
    status: dict[str, Any] = field(default_factory=dict)
    cluster: Cluster = field(default_factory=Cluster)
    last_seen: Observed = field(default_factory=Observed)
    """The objects that a lagging watch still shows."""
    heads: dict[str, str] = field(default_factory=dict)
    """The RayJob of each head pod that ever existed, by the uid of the pod."""
    deleted: bool = False
    count: int = 0
    refusing: bool = False
    """Whether the API server denies every action of the operator."""
    denial: Denial | None = None

    # The operator

    def decide(self, seen: Observed) -> Plan:
        status = PromptInternJobStatus.model_validate(self.status)
        return plan(
            self.job.model_copy(update={"status": status}),
            replace(seen, denial=self.denial),
            generation=self.generation,
            now=self.now,
            limits=replace(LIMITS, settle=5),
        )

    def freshest(self, seen: Observed) -> Observed:
        """Return ``seen`` with the RayJob that the operator requests, to verify that it is really gone."""
        running = [attempt for attempt in self.status.get("attempts", []) if "outcome" not in attempt]
        names = {attempt["rayJobName"] for attempt in running} - {each.name for each in seen.ray_jobs}
        missed = tuple(each for each in self.cluster.ray_jobs.values() if each.name in names)
        return replace(seen, ray_jobs=(*seen.ray_jobs, *missed))

    def carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            before, self.denial = self.denial, None
            if self.refusing:
                message = "exceeded quota"
                self.denial = denial_for(action, before, status=403, reason="Forbidden", message=message, now=self.now)
                return
            match action:
                case StartPreflight(generation=generation, number=number):
                    check = builders.preflight(generation, number, started=self.now)
                    self.cluster.preflights.setdefault(check.name, check)
                case StartAttempt(number=number):
                    self._create_ray_job(number)
                case DeleteRayJob(name=name, uid=uid):
                    if name in self.cluster.ray_jobs and self.cluster.ray_jobs[name].uid == uid:
                        self._change(name, deleting=True)
                case DeletePreflight(name=name):
                    self.cluster.preflights.pop(name, None)
                case DeleteJob():
                    self.deleted = True  # together with its dependents, through their owner references
                    self.cluster = Cluster()

    def _create_ray_job(self, number: int) -> None:
        name = f"small-a{number}"
        if not self.cluster.kuberay or name in self.cluster.ray_jobs:
            return
        queued = bool(self.job.metadata.labels)
        self.count += 1
        uid = f"ray-job-{number}-{self.count}"
        self.cluster.ray_jobs[name] = builders.ray_job(number, "", uid=uid, suspended=queued, cluster=None)
        if queued:
            self.cluster.workloads[name] = builders.workload(number, ray_job_uid=uid)

    # KubeRay, Kueue and the kubelet

    def _change(self, name: str, **changes: Any) -> None:
        self.cluster.ray_jobs[name] = replace(self.cluster.ray_jobs[name], **changes)

    def living(self) -> list[RayJobView]:
        """Return the RayJobs that have not ended and are not being deleted."""
        return [r for r in self.cluster.ray_jobs.values() if not r.deleting and r.deployment not in ENDED]

    def kuberay_works(self) -> None:
        """KubeRay advances every RayJob by one step."""
        if not self.cluster.kuberay:
            return
        for name, ray_job in list(self.cluster.ray_jobs.items()):
            if ray_job.deleting:
                self._take_down(name)
                self.cluster.ray_jobs.pop(name)
                self.cluster.workloads.pop(name, None)
            elif ray_job.deployment in ENDED:
                self._take_down(name)
            elif ray_job.suspended:
                self._take_down(name)
                self._change(name, deployment="Suspended", job_status="", cluster=None)
            elif ray_job.deployment in ("", "Suspended"):
                self.count += 1
                self._change(name, deployment="Initializing", cluster=f"{name}-{self.count}")
                self._create_pod(name, "head")
                self._create_pod(name, "worker")
            elif ray_job.deployment == "Initializing":
                for pod in self._pods_of(name):
                    ready = renewed(pod)
                    self.cluster.pods[pod.name] = ready
                self._change(name, deployment="Running", job_status="RUNNING")

    def _create_pod(self, name: str, role: str) -> None:
        self.count += 1
        pod = builders.pod(
            f"{role}-{self.count}",
            role=role,
            cluster=self.cluster.ray_jobs[name].cluster,
            created=self.now,
            phase="Pending",
            ready=False,
        )
        self.cluster.pods[pod.name] = pod
        if role == "head":
            self.heads[pod.uid] = name

    def _pods_of(self, name: str) -> list[PodView]:
        cluster = self.cluster.ray_jobs[name].cluster
        return [pod for pod in self.cluster.pods.values() if cluster is not None and pod.cluster == cluster]

    def _take_down(self, name: str) -> None:
        for pod in self._pods_of(name):
            self.cluster.pods[pod.name] = replace(pod, deleting=True, ready=False)

    def pods_vanish(self) -> None:
        """The kubelets finish the terminating pods."""
        self.cluster.pods = {name: pod for name, pod in self.cluster.pods.items() if not pod.deleting}

    def head_is_lost(self) -> None:
        """KubeRay creates another head, and the trainer restarts in the same RayJob."""
        for name in [r.name for r in self.living() if r.deployment == "Running"]:
            for pod in self._pods_of(name):
                if pod.role == "head":
                    self.cluster.pods.pop(pod.name)
            self._create_pod(name, "head")

    def pods_get_stuck(self) -> None:
        """The image cannot be pulled."""
        for pod in list(self.cluster.pods.values()):
            if pod.phase == "Pending":
                waits = builders.container("ray-head", waiting_reason="ImagePullBackOff")
                self.cluster.pods[pod.name] = replace(pod, containers=(waits,))

    def pods_are_preempted(self) -> None:
        for pod in list(self.cluster.pods.values()):
            self.cluster.pods[pod.name] = replace(pod, disrupted="PreemptionByScheduler")

    def kueue_works(self, *, admit: bool) -> None:
        for name, ray_job in list(self.cluster.ray_jobs.items()):
            if name in self.cluster.workloads and ray_job.deployment not in ENDED:
                evicted = None if admit else "Preempted"
                self.cluster.workloads[name] = replace(
                    self.cluster.workloads[name], quota_reserved=admit, evicted=evicted
                )
                self._change(name, suspended=not admit)

    def ray_job_ends(self, how: str) -> None:
        for ray_job in self.living():
            if ray_job.deployment != "Running":
                continue
            if how in ("SUCCEEDED", "STOPPED"):
                self._change(ray_job.name, deployment="Complete", job_status=how)
            else:
                self._change(ray_job.name, deployment="Failed", job_status="FAILED", message=_MESSAGES[how])

    def ray_job_is_refused(self) -> None:
        for ray_job in self.living():
            if ray_job.deployment == "":
                self._change(ray_job.name, deployment="ValidationFailed", message="no")

    def somebody_deletes_the_ray_job(self) -> None:
        for ray_job in self.living():
            self._change(ray_job.name, deleting=True)

    def check_ends(self, how: str) -> None:
        for name, check in list(self.cluster.preflights.items()):
            if check.succeeded or check.failed:
                continue
            self.cluster.preflights[name] = replace(
                check,
                succeeded=how == "succeeded",
                failed=None if how == "succeeded" else "failed",
                failed_at=None if how == "succeeded" else self.now,
            )
            if how == "refused":
                pod = builders.preflight_pod(check.generation, exit_code=2, exit_message="[]", created=self.now)
                self.cluster.pods[pod.name] = pod

    def kuberay_goes(self) -> None:
        self.cluster.kuberay = False

    def kuberay_comes(self) -> None:
        self.cluster.kuberay = True

    def api_server_refuses(self) -> None:
        self.refusing = True

    def api_server_allows(self) -> None:
        self.refusing = False

    # The user

    def change(self, **spec: Any) -> None:
        self.job = self.job.model_copy(update={"spec": self.job.spec.model_copy(update=spec)})
        self.generation += 1

    @property
    def is_over(self) -> bool:
        return "completionTime" in self.status

    @property
    def can_be_retried(self) -> bool:
        """Whether the job has failed and the user asked for a retry to which the operator has yet to react."""
        failed = any(c["type"] == "Failed" and c["status"] == "True" for c in self.status.get("conditions", []))
        return failed and self.job.metadata.annotations.get(ANNOTATION_RETRY) != self.status.get("handledRetry")

    def ask_for_retry(self) -> None:
        """The user gives the annotation a new value, which changes no generation."""
        self.count += 1
        annotations = {ANNOTATION_RETRY: str(self.count)}
        metadata = self.job.metadata.model_copy(update={"annotations": annotations})
        self.job = self.job.model_copy(update={"metadata": metadata})

    @property
    def is_refused(self) -> bool:
        return any(c["type"] == "Accepted" and c["reason"] == "Refused" for c in self.status.get("conditions", []))

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def renewed(pod: PodView) -> PodView:
    """Return ``pod`` in phase Running."""
    return replace(pod, phase="Running", ready=True, containers=(builders.container(),))


def world(*, queued: bool, **spec: Any) -> World:
    return World(job=builders.job(labels=QUEUE_LABEL if queued else None, **spec))


Incident = Callable[[World], None]
INCIDENTS: dict[str, Incident] = {
    "KubeRay works": World.kuberay_works,
    "pods vanish": World.pods_vanish,
    "the head is lost": World.head_is_lost,
    "pods get stuck": World.pods_get_stuck,
    "pods are preempted": World.pods_are_preempted,
    "Kueue admits": lambda w: w.kueue_works(admit=True),
    "Kueue evicts": lambda w: w.kueue_works(admit=False),
    "the RayJob succeeds": lambda w: w.ray_job_ends("SUCCEEDED"),
    "the RayJob is stopped": lambda w: w.ray_job_ends("STOPPED"),
    "the trainer crashes": lambda w: w.ray_job_ends("crashed"),
    "the trainer refuses": lambda w: w.ray_job_ends("refused"),
    "the cluster is lost": lambda w: w.ray_job_ends("lost"),
    "KubeRay refuses": World.ray_job_is_refused,
    "somebody deletes the RayJob": World.somebody_deletes_the_ray_job,
    "the check succeeds": lambda w: w.check_ends("succeeded"),
    "the check refuses": lambda w: w.check_ends("refused"),
    "the check fails": lambda w: w.check_ends("failed"),
    "KubeRay goes": World.kuberay_goes,
    "KubeRay comes": World.kuberay_comes,
    "the API server refuses": World.api_server_refuses,
    "the API server allows": World.api_server_allows,
    "the user suspends": lambda w: w.change(suspend=True),
    "the user resumes": lambda w: w.change(suspend=False),
    "the user asks for a retry": World.ask_for_retry,
}
