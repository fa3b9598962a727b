"""Classify the ends of attempts by their cause, which determines who has to act."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from promptintern_api.contract import LOGS_CONTAINER, WORKER_CONTAINER, ExitCode, PodRole
from promptintern_api.status import MAX_REASON, Outcome, PodStatus
from promptintern_api.training_status import Failure

from promptintern_operator.views import ContainerView, PodView, RayJobView

_EXIT_CODE = re.compile(r"exit code (-?[0-9]{1,9})(?![0-9])")
_ENDED_BY_SIGNAL, _SAVED = (-2, -15), (ExitCode.INTERRUPTED, ExitCode.TERMINATED)
"""The exit codes of a driver that SIGINT or SIGTERM killed (Ray negates the number of the signal), and of a driver that
saved and exited after such a signal.
"""
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
_OOM = "OOMKilled"
_SHORTLY_BEFORE = timedelta(minutes=10)
"""The time after a kill for lack of memory within which the end of an attempt is attributed to the kill. An attempt
that runs for longer has recovered from the kill.
"""
_TAIL_LINES, _MESSAGE_CHARACTERS = 12, 2000
_MOST_PODS, _MOST_GONE, _POD_MESSAGE = 48, 16, 1024

STUCK_BY_USER = ("InvalidImageName", "CreateContainerConfigError", "ErrImageNeverPull")
"""The reasons for which a container waits until the user acts; another attempt would not help."""
_WAITS = (*STUCK_BY_USER, "ImagePullBackOff", "ErrImagePull", "CreateContainerError", "RunContainerError")
STUCK = ("Unschedulable", *_WAITS)
"""All reasons for which a pod cannot start."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The way in which an attempt ended."""

    outcome: Outcome
    reason: str
    message: str
    certain: bool = True
    """Whether the outcome is final, even if the pods report a cause later."""


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """A pod that cannot start."""

    pod: PodView
    reason: str
    message: str


def ending_of(
    ray_job: RayJobView,
    pods: Sequence[PodView],
    trainer_failure: Failure | None,
    *,
    earlier_states: Sequence[PodStatus] = (),
) -> Ending | None:
    """Return how the attempt of ``ray_job`` ended, or None if the attempt has not ended.

    Args:
        ray_job: The attempt's RayJob.
        pods: The pods of the attempt's Ray cluster, as last observed.
        trainer_failure: The failure that the trainer reported. The report may decide which retry budget the failure
            counts against, but a failure always counts against one.
        earlier_states: The pod states that the status keeps; some of these pods may be gone.
    """
    if ray_job.deployment == "ValidationFailed":
        return Ending(
            outcome=Outcome.USER, reason="ValidationFailed", message=f"KubeRay refuses the RayJob: {ray_job.message}"
        )
    if ray_job.job_status == "SUCCEEDED" and ray_job.deployment == "Complete":
        return Ending(outcome=Outcome.SUCCEEDED, reason="Succeeded", message="all stages are done")
    if ray_job.job_status == "STOPPED" and ray_job.deployment == "Complete":
        return Ending(
            outcome=Outcome.APPLICATION,
            reason="Stopped",
            message="the Ray job was stopped from outside, as by ray job stop",
        )
    if ray_job.deployment not in ("Complete", "Failed"):
        return None
    return _failure(ray_job, pods, trainer_failure, earlier_states)


def _failure(
    ray_job: RayJobView, pods: Sequence[PodView], trainer_failure: Failure | None, earlier_states: Sequence[PodStatus]
) -> Ending:
    """Return the ending for the first explanation that applies; certain explanations precede likely ones."""
    match = _EXIT_CODE.search(ray_job.message)
    code = int(match[1]) if match else None
    detail = trainer_failure.message if trainer_failure is not None else _tail(ray_job.message)
    out_of_memory = killed_for_memory(pods, earlier_states, ended=ray_job.ended)
    # An eviction by the kubelet may be the fault of the pod itself, so it must count against a retry budget.
    preempted = [removal(pod, pod.disrupted) for pod in pods if pod.disrupted in _PREEMPTED and pod.reason != "Evicted"]
    lost = [
        removal(pod, why)
        for pod in pods
        if (why := next((why for why in (pod.reason, pod.disrupted) if why in NODE_TROUBLE), None)) is not None
    ]
    # A drain or a user removed the head pod; the trainer did not fail.
    leaving = [pod.name for pod in pods if pod.role == PodRole.HEAD and code in _STOPPED and _was_removed(pod, ray_job)]
    failure_class = trainer_failure.failure_class if trainer_failure is not None else None
    is_refused = code == ExitCode.USER_ERROR or failure_class == "User"
    is_infrastructure = code == ExitCode.INFRASTRUCTURE or failure_class == "Infrastructure"
    certain: list[tuple[bool, Outcome, str, str]] = [
        (is_refused, Outcome.USER, "Refused", detail),
        (bool(out_of_memory), Outcome.APPLICATION, "OutOfMemory", out_of_memory or ""),
        (bool(preempted), Outcome.PREEMPTION, "Preempted", "the cluster removed " + ", ".join(preempted)),
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
        (code in _STOPPED, Outcome.INFRASTRUCTURE, "Stopped", f"the driver was stopped: {detail}"),
        (
            _ray_ran_out_of_memory(ray_job, detail),
            Outcome.APPLICATION,
            "OutOfMemory",
            f"{_worker_memory(ray_job)}: {detail}",
        ),
        (is_infrastructure, Outcome.INFRASTRUCTURE, "InfrastructureFailed", detail),
        (code is not None, Outcome.APPLICATION, "TrainerFailed", detail or f"the trainer exited with code {code}"),
        (True, Outcome.INFRASTRUCTURE, ray_job.reason or "ClusterFailed", detail or "KubeRay gave no reason"),
    ]
    outcome, reason, message = next(ending for holds, *ending in (*certain, *likely) if holds)
    is_certain = any(holds for holds, *_ in certain)
    return Ending(outcome=Outcome(outcome), reason=reason, message=message, certain=is_certain)


def _was_removed(pod: PodView, ray_job: RayJobView) -> bool:
    """Return whether deletion of ``pod`` was requested before Ray's job ended. Afterwards, KubeRay deletes all pods."""
    if ray_job.ended is None or pod.deletion_requested is None:
        return pod.deleting
    return pod.deletion_requested <= ray_job.ended


def killed_for_memory(
    pods: Sequence[PodView], earlier_states: Sequence[PodStatus] = (), *, ended: datetime | None = None
) -> str | None:
    """Return a message about a container that was killed for lack of memory, or None if there is none.

    Args:
        pods: The pods of the attempt, as last observed.
        earlier_states: The pod states that the status keeps; some of these pods may be gone.
        ended: The time at which the attempt ended. A container that was killed long before this time did not end the
            attempt, because Ray replaced its worker.
    """
    memory_deaths = [
        (pod.main.ended_at, _passed_limit(pod, pod.main))
        for pod in pods
        if pod.main is not None and pod.main.exit_reason == _OOM
    ]
    memory_deaths += [
        (state.finished_at, state.message) for state in earlier_states if state.reason == _OOM and state.message
    ]
    return next(
        (message for at, message in memory_deaths if at is None or ended is None or ended - at <= _SHORTLY_BEFORE), None
    )


def _ray_ran_out_of_memory(ray_job: RayJobView, detail: str) -> bool:
    return _RAY_MEMORY.search(ray_job.message) is not None or _RAY_MEMORY.search(detail) is not None


def _worker_memory(ray_job: RayJobView) -> str:
    """Describe a worker process that Ray killed just before the kernel would have; the pod does not show this kill."""
    limit = f" of {ray_job.worker_memory}" if ray_job.worker_memory else ""
    return (
        f"container {WORKER_CONTAINER} came close to its memory limit{limit}, so Ray killed the training process; "
        "raise spec.compute.resources.memory, or lower spec.training.tokensPerPack"
    )


def _passed_limit(pod: PodView, container: ContainerView) -> str:
    cause = "because its node ran out of memory"
    if container.memory_limit:
        cause = f"for exceeding its memory limit of {container.memory_limit}"
    field = "headResources" if pod.role == PodRole.HEAD else "resources"
    return (
        f"container {container.name} of pod {pod.name} was killed {cause}; raise "
        f"spec.compute.{field}.memory, or lower spec.training.tokensPerPack"
    )


def removal(pod: PodView, reason: str) -> str:
    """Describe the removal of ``pod`` for ``reason``, with the explanation of the component that removed it."""
    explanation = f": {_tail(pod.message)[-_POD_MESSAGE:]}" if pod.message else ""
    return f"pod {pod.name} ({reason}{explanation})"


def stuck_pod(pods: Sequence[PodView]) -> Stuck | None:
    """Return the oldest pod that cannot start, or None if all pods make progress."""
    for pod in sorted(pods, key=lambda pod: (pod.created, pod.name)):
        if pod.deleting or pod.phase != "Pending":
            continue
        if pod.unschedulable:
            return Stuck(
                pod=pod, reason="Unschedulable", message=f"no node can run pod {pod.name}: {pod.unschedulable}"
            )
        for container in pod.containers:
            if container.waiting_reason in _WAITS:
                # The kubelet alternates between ErrImagePull and ImagePullBackOff while it retries.
                reason = "ImagePullBackOff" if container.waiting_reason == "ErrImagePull" else container.waiting_reason
                return Stuck(pod=pod, reason=reason, message=_waiting(pod, container))
    return None


def _waiting(pod: PodView, container: ContainerView) -> str:
    return (
        f"container {container.name} of pod {pod.name} cannot start: {container.waiting_reason}: "
        f"{container.waiting_message or 'no reason given'}"
    )


def is_being_prepared(pod: PodView) -> bool:
    """Return whether ``pod`` is waiting for its image or its volumes, which may take a long time."""
    own = (container for container in pod.containers if container is pod.main or container.name == LOGS_CONTAINER)
    return pod.phase == "Pending" and pod.node is not None and all(container.waiting_reason for container in own)


def is_stranded(pod: PodView, now: datetime, seconds: float) -> bool:
    """Return whether ``pod`` has been overdue for deletion for ``seconds``, which means that its node is gone."""
    return pod.deletion_due is not None and now >= pod.deletion_due + timedelta(seconds=seconds)


def is_running(pod: PodView) -> bool:
    """Return whether ``pod`` has not reported its end yet."""
    has_ended = pod.main is not None and pod.main.exit_code is not None
    return pod.phase in ("Pending", "Running") and not has_ended


def last_states(pods: Sequence[PodView], earlier_states: Sequence[PodStatus] = ()) -> list[PodStatus]:
    """Return the pod states for the status: the head, then the workers, then removed pods that had failed.

    KubeRay removes failed pods, so only the status remembers them. The most recently removed pods come first.

    Args:
        pods: The pods of the attempt, as last observed.
        earlier_states: The pod states that the status has kept so far.
    """
    ordered = sorted(pods, key=lambda pod: (pod.role != PodRole.HEAD, pod.name))
    names = {pod.name for pod in pods}
    gone = [state for state in earlier_states if state.name not in names and (state.reason or state.exit_code)]
    return [*map(_last_state, ordered[:_MOST_PODS]), *gone[:_MOST_GONE]]


def _last_state(pod: PodView) -> PodStatus:
    ended = _explaining_container(pod)
    reason = pod.reason or pod.disrupted or (ended.exit_reason or ended.waiting_reason if ended else None)
    message = pod.message or pod.unschedulable or (ended.exit_message or ended.waiting_message if ended else None)
    if ended is not None and ended.exit_reason == _OOM:
        message = _passed_limit(pod, ended)
    return PodStatus(
        name=pod.name,
        node=pod.node,
        phase=pod.phase,
        reason=reason[:MAX_REASON] if reason else None,
        message=_tail(message)[-_POD_MESSAGE:] if message else None,
        exit_code=ended.exit_code if ended else None,
        finished_at=ended.ended_at if ended else None,
    )


def _explaining_container(pod: PodView) -> ContainerView | None:
    """Return the container whose end explains that of ``pod``: the main one, or one that failed before it started."""
    if pod.phase != "Failed" or (pod.main is not None and pod.main.exit_code is not None):
        return pod.main
    failed = (container for container in pod.containers if container.exit_code and container.name != LOGS_CONTAINER)
    return next(failed, pod.main)


def _tail(message: str) -> str:
    lines = [line for line in message.strip().splitlines() if line.strip()]
    return "\n".join(lines[-_TAIL_LINES:])[-_MESSAGE_CHARACTERS:]
