"""What ``plan`` is told and what it answers."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from promptintern_operator.views import PodView, PreflightView, RayJobView, WorkloadView


@dataclass(frozen=True, kw_only=True)
class KubeRay:
    """Whether RayJobs can be run here."""

    usable: bool
    reason: str = "KubeRayPresent"
    message: str = ""


@dataclass(frozen=True)
class StartPreflight:
    """Check the spec of this generation."""

    generation: int
    number: int = 1
    """More than 1 if the checks before were lost."""


@dataclass(frozen=True)
class StartAttempt:
    """Create the attempt's RayJob, and what it needs."""

    number: int


@dataclass(frozen=True)
class DeleteRayJob:
    """Delete it, and with it its cluster; the trainer saves first."""

    name: str
    uid: str


@dataclass(frozen=True)
class DeletePreflight:
    """Delete it with its pods."""

    name: str
    uid: str


@dataclass(frozen=True)
class DeleteJob:
    """Delete the PromptInternJob: its time after the end is over."""


Action = StartPreflight | StartAttempt | DeleteRayJob | DeletePreflight | DeleteJob


@dataclass(frozen=True, kw_only=True)
class Denial:
    """An action that the API server does not let the operator carry out."""

    action: Action
    reason: str
    message: str
    since: datetime
    """When it first said so. It is not kept in the status: another operator counts from its own first try."""
    at: datetime
    """When it last said so."""
    times: int
    """How often in a row."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """All that belongs to one job, as the cluster shows it now."""

    ray_jobs: tuple[RayJobView, ...] = ()
    pods: tuple[PodView, ...] = ()
    preflights: tuple[PreflightView, ...] = ()
    workloads: tuple[WorkloadView, ...] = ()
    kuberay: KubeRay = KubeRay(usable=True)
    denial: Denial | None = None
    """The action that could not be carried out when the job was last looked at."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The settings that ``plan`` needs, in seconds."""

    stuck: float = 900
    queue: float = 30
    silent: float = 60
    """How long KubeRay may take over a first or a last word on a RayJob."""
    settle: float = 5
    """How long the pods of a RayJob that failed may take to say why: their watch may lag behind its own."""
    retry: float = 10
    retry_max: float = 600
    free_retry: float = 1
    """First delay before something is tried again that counts against nothing; it doubles up to ``free_retry_max``."""
    free_retry_max: float = 60


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """To be told as a Kubernetes Event."""

    reason: str
    message: str
    warning: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The status that is true now, what to do next, and when to look again if nothing happens before."""

    status: dict[str, Any]
    """The operator's part of the status, on the wire."""
    actions: tuple[Action, ...] = ()
    events: tuple[EventRecord, ...] = ()
    requeue_at: datetime | None = None
