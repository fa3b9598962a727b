"""The input and the output of ``plan``."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from promptintern_operator.views import PodView, PreflightView, RayJobView, WorkloadView


@dataclass(frozen=True, kw_only=True)
class KubeRay:
    """Whether this cluster can run RayJobs, and if not, why."""

    usable: bool
    reason: str = "KubeRayPresent"
    message: str = ""


@dataclass(frozen=True)
class StartPreflight:
    """Create the Job that checks the spec of ``generation``."""

    generation: int
    number: int = 1
    """Number of the check, from 1; it is greater if earlier checks of this generation were lost."""


@dataclass(frozen=True)
class StartAttempt:
    """Create the RayJob of an attempt, and its dependents."""

    number: int


@dataclass(frozen=True)
class DeleteRayJob:
    """Delete a RayJob together with its Ray cluster; the trainer saves first."""

    name: str
    uid: str


@dataclass(frozen=True)
class DeletePreflight:
    """Delete a preflight Job together with its pods."""

    name: str
    uid: str


@dataclass(frozen=True)
class DeleteJob:
    """Delete the PromptInternJob, because its TTL after the end has expired."""


Action = StartPreflight | StartAttempt | DeleteRayJob | DeletePreflight | DeleteJob


@dataclass(frozen=True, kw_only=True)
class Denial:
    """An action that the API server denied."""

    action: Action
    reason: str
    message: str
    since: datetime
    """Time of the first denial in a row. The status does not hold it, so a new operator counts afresh."""
    at: datetime
    """Time of the last denial."""
    times: int
    """Number of denials in a row."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """All objects that belong to one job, as the watches show them now."""

    ray_jobs: tuple[RayJobView, ...] = ()
    pods: tuple[PodView, ...] = ()
    preflights: tuple[PreflightView, ...] = ()
    workloads: tuple[WorkloadView, ...] = ()
    kuberay: KubeRay = KubeRay(usable=True)
    denial: Denial | None = None
    """The denial of an action in the last reconciliation, if there was one."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The settings that ``plan`` needs, in seconds."""

    stuck: float = 900
    queue: float = 30
    silent: float = 60
    """How long KubeRay may take to report the start or the end of a RayJob."""
    settle: float = 5
    """How long the pods of a failed RayJob may take to report why; the watch of pods may lag behind that of RayJobs."""
    retry: float = 10
    retry_max: float = 600
    free_retry: float = 1
    """First delay before a retry that no budget counts; it doubles up to ``free_retry_max``."""
    free_retry_max: float = 60


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """The content of a Kubernetes Event."""

    reason: str
    message: str
    warning: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The current status, the next actions, and the time of the next reconciliation if nothing changes before."""

    status: dict[str, Any]
    """The operator's part of the status, in wire format."""
    actions: tuple[Action, ...] = ()
    events: tuple[EventRecord, ...] = ()
    requeue_at: datetime | None = None
