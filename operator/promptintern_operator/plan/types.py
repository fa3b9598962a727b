"""The types of the input and the output of ``plan``."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from promptintern_operator.views import PodView, PreflightView, RayJobView, WorkloadView


@dataclass(frozen=True, kw_only=True)
class KubeRay:
    """The state of KubeRay: whether this cluster can run RayJobs, and the reason if it cannot."""

    usable: bool
    reason: str = "KubeRayPresent"
    message: str = ""


@dataclass(frozen=True)
class StartPreflight:
    """The action that creates the Job that checks one generation of the spec."""

    generation: int
    number: int = 1
    """The number of the check, from 1; it is greater if earlier checks of this generation were lost."""


@dataclass(frozen=True)
class StartAttempt:
    """The action that creates the RayJob of an attempt, once all dependents of the job exist."""

    number: int


@dataclass(frozen=True)
class DeleteRayJob:
    """The action that deletes a RayJob together with its Ray cluster; the trainer saves first."""

    name: str
    uid: str


@dataclass(frozen=True)
class DeletePreflight:
    """The action that deletes a preflight Job together with its pods."""

    name: str
    uid: str


@dataclass(frozen=True)
class DeleteJob:
    """The action that deletes the PromptInternJob, because its ``ttlSecondsAfterFinished`` has expired."""


Action = StartPreflight | StartAttempt | DeleteRayJob | DeletePreflight | DeleteJob


@dataclass(frozen=True, kw_only=True)
class Denial:
    """An action that the API server denied."""

    action: Action
    reason: str
    message: str
    since: datetime
    """The time of the first denial in the current series of denials. A restarted operator begins a new series, because
    the status does not record this time.
    """
    at: datetime
    """The time of the last denial."""
    times: int
    """The number of denials in the current series."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The objects of one job, as the watches last reported them."""

    ray_jobs: tuple[RayJobView, ...] = ()
    pods: tuple[PodView, ...] = ()
    preflights: tuple[PreflightView, ...] = ()
    workloads: tuple[WorkloadView, ...] = ()
    foreign: tuple[RayJobView | PreflightView, ...] = ()
    """RayJobs and preflights that name the job as their controller, but that the operator did not create."""
    kuberay: KubeRay = KubeRay(usable=True)
    denial: Denial | None = None
    """The newest denial of an action, or None if there was no denial or the action has succeeded since."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The settings that ``plan`` needs; times are in seconds."""

    stuck: float = 900
    queue: float = 30
    silent: float = 60
    """The time that KubeRay may take to report the start or the end of a RayJob."""
    settle: float = 5
    """The time that the pods of a failed RayJob may take to report the cause; the watch of pods may lag behind."""
    retry: float = 10
    retry_max: float = 600
    free_retry: float = 1
    """The first delay before a retry that no budget counts, which doubles up to ``free_retry_max``."""
    free_retry_max: float = 60
    kuberay_namespace: str = ""
    """The only namespace from which KubeRay may connect to head pods; an empty value means every namespace."""


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """The content of a Kubernetes Event."""

    reason: str
    message: str
    warning: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The current status, the next actions, and the time of the next reconciliation if nothing changes until then."""

    status: dict[str, Any]
    """The operator's part of the status, in wire format."""
    actions: tuple[Action, ...] = ()
    events: tuple[EventRecord, ...] = ()
    requeue_at: datetime | None = None
    attempt_ending: str | None = None
    """The reason why the newest attempt ended, if this plan ends it, else None."""
