"""Why an attempt ended, and who has to act."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from promptintern_api.status import Outcome, PodStatus
from promptintern_api.training_status import Failure

from promptintern_operator.views import ContainerView, PodView, RayJobView

_EXIT_CODE = re.compile(r"exit code (-?\d+)")
USER_EXIT, INFRASTRUCTURE_EXIT = 2, 75
"""Exit codes: of a refusal; of a trainer that lost its storage or its workers."""
_ENDED_BY_SIGNAL, _SAVED = (-2, -15), (130, 143)
"""Of a driver that got SIGINT or SIGTERM: it died of them, as Ray writes it; or it saved and ended by itself."""
_STOPPED = (*_ENDED_BY_SIGNAL, *_SAVED)
_RAY_MEMORY = re.compile(r"OutOfMemoryError|Task was killed due to the node running low on memory|OOM killer")
NODE_TROUBLE = (
    "Evicted",
    "NodeLost",
    "NodeAffinity",
    "NodeShutdown",
    "Terminated",
    "Shutdown",
    "UnexpectedAdmissionError",
    "DeletionByPodGC",
)
_PREEMPTED = ("PreemptionByScheduler", "EvictionByEvictionAPI", "DeletionByTaintManager", "TerminationByKubelet")
_SIDECAR = "logs"
"""It is started again; its end explains nothing."""
_OOM = "OOMKilled"
_SHORTLY_BEFORE = timedelta(minutes=10)
"""Before the end of an attempt: what its workers are given to come back from such a death."""
_TAIL_LINES, _MESSAGE_CHARACTERS = 12, 2000
_MOST_PODS, _MOST_GONE, _POD_MESSAGE = 48, 16, 512

STUCK_BY_USER = ("InvalidImageName", "CreateContainerConfigError", "ErrImageNeverPull")
"""Reasons to wait that no other attempt would mend."""
_WAITS = (*STUCK_BY_USER, "ImagePullBackOff", "ErrImagePull", "CreateContainerError", "RunContainerError")
STUCK = ("Unschedulable", *_WAITS)
"""Reasons why a pod cannot start."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended."""

    outcome: Outcome
    reason: str
    message: str
    certain: bool = True
    """Whether what the pods have yet to say can change nothing."""


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """A pod that cannot start."""

    pod: PodView
    reason: str
    message: str


def ending_of(
    ray_job: RayJobView, pods: Sequence[PodView], advice: Failure | None, *, seen: Sequence[PodStatus] = ()
) -> Ending | None:
    """How the attempt of ``ray_job`` ended; None while it goes on.

    Args:
        pods: Its pods, as last seen.
        advice: What the trainer says of its own failure. It may choose between the budgets that its author gave it,
            and never say that a failure is free.
        seen: What the status keeps of pods that may be gone.
    """
    if ray_job.deployment == "ValidationFailed":
        return Ending(
            outcome=Outcome.USER, reason="ValidationFailed", message=f"KubeRay refuses the RayJob: {ray_job.message}"
        )
    if ray_job.job_status == "SUCCEEDED" and ray_job.deployment == "Complete":
        return Ending(outcome=Outcome.SUCCEEDED, reason="Succeeded", message="all stages are done")
    if ray_job.job_status == "STOPPED" and ray_job.deployment == "Complete":
        return Ending(
            outcome=Outcome.APPLICATION, reason="Stopped", message="the Ray job was stopped from outside (ray job stop)"
        )
    if ray_job.deployment not in ("Complete", "Failed"):
        return None
    return _failure(ray_job, pods, advice, seen)


def _failure(ray_job: RayJobView, pods: Sequence[PodView], advice: Failure | None, seen: Sequence[PodStatus]) -> Ending:
    """The first explanation that fits counts: what is certain comes before what is likely."""
    found = _EXIT_CODE.search(ray_job.message)
    code = int(found[1]) if found else None
    told = advice.message if advice is not None else _tail(ray_job.message)
    out_of_memory = killed_for_memory(pods, seen, ended=ray_job.ended)
    # A pod that the kubelet evicts may have used too much itself: that must not be free.
    taken = [f"{pod.name}: {pod.disrupted}" for pod in pods if pod.disrupted in _PREEMPTED and pod.reason != "Evicted"]
    lost = [f"{pod.name}: {why}" for pod in pods for why in (pod.reason, pod.disrupted) if why in NODE_TROUBLE]
    # Somebody takes the head's pod (a drain, a user): nothing went wrong.
    leaving = [pod.name for pod in pods if pod.role == "head" and code in _STOPPED and _was_taken(pod, ray_job)]
    said = advice.failure_class if advice is not None else None
    refused = code == USER_EXIT or said == "User"
    lost_all = code == INFRASTRUCTURE_EXIT or said == "Infrastructure"
    certain: list[tuple[bool, Outcome, str, str]] = [
        (refused, Outcome.USER, "Refused", told),
        (bool(out_of_memory), Outcome.APPLICATION, "OutOfMemory", out_of_memory or ""),
        (bool(taken), Outcome.PREEMPTION, "Preempted", "the cluster took " + ", ".join(taken)),
        (
            bool(leaving),
            Outcome.PREEMPTION,
            "PodDeleted",
            f"pod {', '.join(leaving)} was deleted; the trainer "
            + ("saved first" if code in _SAVED else "ended before it could save"),
        ),
        (bool(lost), Outcome.INFRASTRUCTURE, "PodLost", "the cluster lost " + ", ".join(lost)),
    ]
    likely: list[tuple[bool, Outcome, str, str]] = [
        (code in _STOPPED, Outcome.INFRASTRUCTURE, "Stopped", f"the driver was stopped: {told}"),
        (
            _ray_ran_out_of_memory(ray_job, told),
            Outcome.APPLICATION,
            "OutOfMemory",
            f"{_worker_memory(ray_job)}: {told}",
        ),
        (lost_all, Outcome.INFRASTRUCTURE, "InfrastructureFailed", told),
        (code is not None, Outcome.APPLICATION, "TrainerFailed", told or f"the trainer exited with {code}"),
        (True, Outcome.INFRASTRUCTURE, ray_job.reason or "ClusterFailed", told or "KubeRay gives no reason"),
    ]
    outcome, reason, message = next(ending for holds, *ending in (*certain, *likely) if holds)
    sure = any(holds for holds, *_ in certain)
    return Ending(outcome=Outcome(outcome), reason=reason, message=message, certain=sure)


def _was_taken(pod: PodView, ray_job: RayJobView) -> bool:
    """Whether ``pod`` was to go before the job ended. Afterwards KubeRay deletes all pods, whatever the reason."""
    if ray_job.ended is None or pod.deletion_asked is None:
        return pod.deleting
    return pod.deletion_asked <= ray_job.ended


def killed_for_memory(
    pods: Sequence[PodView], seen: Sequence[PodStatus] = (), *, ended: datetime | None = None
) -> str | None:
    """Which container passed its memory limit, in words; None if none did.

    Args:
        seen: Last states of pods that may be gone.
        ended: When the attempt ended. What happened long before did not end it: Ray puts another worker in its place.
    """
    found = [
        (container.ended_at, _passed_limit(pod, container))
        for pod in pods
        for container in pod.containers
        if container.exit_reason == _OOM and container.name != _SIDECAR
    ]
    found += [(state.finished_at, state.message) for state in seen if state.reason == _OOM and state.message]
    return next((told for at, told in found if at is None or ended is None or ended - at <= _SHORTLY_BEFORE), None)


def _ray_ran_out_of_memory(ray_job: RayJobView, told: str) -> bool:
    return _RAY_MEMORY.search(ray_job.message) is not None or _RAY_MEMORY.search(told) is not None


def _worker_memory(ray_job: RayJobView) -> str:
    """Ray kills a worker's process shortly before the kernel would kill its container, and the pod shows nothing."""
    limit = f" of {ray_job.worker_memory}" if ray_job.worker_memory else ""
    return (
        f"container ray-worker came close to its memory limit{limit}, so Ray killed the training in it; raise "
        "spec.compute.resources.memory, or lower spec.training.tokensPerPack"
    )


def _passed_limit(pod: PodView, container: ContainerView) -> str:
    limit = f"its limit of {container.memory_limit}" if container.memory_limit else "the node's memory"
    field = "headResources" if pod.role == "head" else "resources"
    return (
        f"container {container.name} of pod {pod.name} was killed for passing {limit}; raise "
        f"spec.compute.{field}.memory, or lower spec.training.tokensPerPack"
    )


def stuck_pod(pods: Sequence[PodView]) -> Stuck | None:
    """A pod that waits for what may never come, the oldest first; None if all get on."""
    for pod in sorted(pods, key=lambda each: (each.created, each.name)):
        if pod.deleting or pod.phase != "Pending":
            continue
        if pod.unschedulable:
            return Stuck(pod=pod, reason="Unschedulable", message=f"no node takes pod {pod.name}: {pod.unschedulable}")
        for container in pod.containers:
            if container.waiting_reason in _WAITS:
                # The kubelet says the two in turn, as it tries again and again.
                reason = "ImagePullBackOff" if container.waiting_reason == "ErrImagePull" else container.waiting_reason
                return Stuck(pod=pod, reason=reason, message=_waiting(pod, container))
    return None


def _waiting(pod: PodView, container: ContainerView) -> str:
    return (
        f"container {container.name} of pod {pod.name} cannot start: {container.waiting_reason}: "
        f"{container.waiting_message or 'no reason given'}"
    )


def is_being_made(pod: PodView) -> bool:
    """Whether ``pod`` waits for its image or its volumes, which may take its time."""
    return pod.phase == "Pending" and pod.node is not None and all(c.waiting_reason for c in pod.containers)


def is_stranded(pod: PodView, now: datetime, seconds: float) -> bool:
    """Whether ``pod`` should have been gone for ``seconds``: its node is, and nobody is there to say that it ended."""
    return pod.deletion_due is not None and now >= pod.deletion_due + timedelta(seconds=seconds)


def is_running(pod: PodView) -> bool:
    """Whether ``pod`` has not told its end yet."""
    ended = any(container.exit_code is not None and container.name != _SIDECAR for container in pod.containers)
    return pod.phase in ("Pending", "Running") and not ended


def last_states(pods: Sequence[PodView], before: Sequence[PodStatus] = ()) -> list[PodStatus]:
    """What status keeps of pods, the head first, and of earlier ones those that ended badly: KubeRay removes them.

    The newest of those come first.

    Args:
        before: What was kept so far.
    """
    ordered = sorted(pods, key=lambda pod: (pod.role != "head", pod.name))
    here = {pod.name for pod in pods}
    gone = [state for state in before if state.name not in here and (state.reason or state.exit_code)]
    return [*map(_last_state, ordered[:_MOST_PODS]), *gone[:_MOST_GONE]]


def _last_state(pod: PodView) -> PodStatus:
    containers = [container for container in pod.containers if container.name != _SIDECAR]
    first = containers[0] if containers else None
    ended = next((c for c in containers if c.exit_code not in (None, 0)), first)
    reason = pod.reason or pod.disrupted or (ended.exit_reason or ended.waiting_reason if ended else None)
    message = pod.message or pod.unschedulable or (ended.exit_message or ended.waiting_message if ended else None)
    if ended is not None and ended.exit_reason == _OOM:
        message = _passed_limit(pod, ended)
    return PodStatus(
        name=pod.name,
        node=pod.node,
        phase=pod.phase,
        reason=reason,
        message=message[:_POD_MESSAGE] if message else None,
        exit_code=ended.exit_code if ended else None,
        finished_at=ended.ended_at if ended else None,
    )


def _tail(message: str) -> str:
    lines = [line for line in message.strip().splitlines() if line.strip()]
    return "\n".join(lines[-_TAIL_LINES:])[-_MESSAGE_CHARACTERS:]
