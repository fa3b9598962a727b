"""status: written by the trainer's head pod (``training``) and the operator (the rest), never by a user."""

# ruff: noqa: RUF012 -- pydantic copies a default for every object
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from promptintern_api.base import ApiModel
from promptintern_api.compute import StorageSpec

Time = Annotated[
    datetime, BeforeValidator(lambda value: datetime.fromisoformat(value) if isinstance(value, str) else value)
]
"""A time, which is text on the wire; strict validation takes no text for a time."""


def _map_by(key: str) -> dict[str, Any]:
    """Of a list: server-side apply merges its items by ``key``."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


class Phase(StrEnum):
    """The job in one word, derived from the conditions."""

    PENDING = "Pending"
    CHECKING = "Checking"
    QUEUED = "Queued"
    STARTING = "Starting"
    TRAINING = "Training"
    SUSPENDED = "Suspended"
    REFUSED = "Refused"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Condition(ApiModel):
    """A condition as in every Kubernetes object."""

    type: Annotated[str, Field(max_length=316, description="What the condition is about.")]
    status: Annotated[str, Field(pattern=r"^(True|False|Unknown)$", description="True, False or Unknown.")]
    reason: Annotated[str, Field(max_length=1024, description="A word for programs.")]
    message: Annotated[str, Field(max_length=32_768, description="A sentence for people.")]
    last_transition_time: Annotated[Time, Field(description="When `status` last changed.")]
    observed_generation: Annotated[int | None, Field(ge=0, description="The spec's generation that was judged.")] = None


class StageStatus(ApiModel):
    """One stage as the trainer reports it."""

    index: Annotated[int, Field(ge=0, description="Stage number, from 0.")]
    rate: Annotated[float, Field(description="Template rate achieved.")]
    shots: Annotated[int, Field(description="Examples in the prompt.")]
    prompt_tokens: Annotated[float, Field(description="Mean prompt tokens per query.")]
    loss: Annotated[float | None, Field(description="Mean loss per answer token at the stage's end.")] = None
    score: Annotated[float | None, Field(description="Score on the held-out sample.")] = None
    started_at: Annotated[Time | None, Field(description="First step.")] = None
    finished_at: Annotated[Time | None, Field(description="Commit.")] = None
    checkpoint: Annotated[str | None, Field(description="Folder of the newest checkpoint.")] = None


class TimeShares(ApiModel):
    """What the training time was spent on, as shares that sum to 1."""

    data: Annotated[float, Field(ge=0, description="Putting packs together and on the device.")] = 0.0
    forward: Annotated[float, Field(ge=0, description="Forward passes.")] = 0.0
    backward: Annotated[float, Field(ge=0, description="Backward passes.")] = 0.0
    exchange: Annotated[float, Field(ge=0, description="Summing gradients over workers, and waiting for them.")] = 0.0
    optimizer: Annotated[float, Field(ge=0, description="Clipping and the optimizer.")] = 0.0
    save: Annotated[float, Field(ge=0, description="Held up by reports and checkpoints.")] = 0.0


class Progress(ApiModel):
    """Where the running stage stands."""

    step: Annotated[int, Field(ge=0, description="Optimizer steps done in this stage.")]
    total: Annotated[int, Field(ge=0, description="Optimizer steps of this stage.")]
    examples_per_second: Annotated[float | None, Field(description="Training rows per second.")] = None
    tokens_per_second: Annotated[float | None, Field(description="Prompt and answer tokens per second.")] = None
    computed_tokens_per_second: Annotated[
        float | None, Field(description="Tokens through the model per second; shared ones count once.")
    ] = None
    loss_tokens_per_second: Annotated[float | None, Field(description="Answer tokens per second.")] = None
    mfu: Annotated[
        float | None, Field(description="Model FLOPs utilization, a share; only where the GPU's peak is known.")
    ] = None
    time_shares: Annotated[TimeShares | None, Field(description="What the time of this stage went to.")] = None
    eta_seconds: Annotated[float | None, Field(description="Seconds left in this stage.")] = None


class Failure(ApiModel):
    """Why the trainer ended."""

    failure_class: Annotated[
        str,
        Field(
            alias="class",
            pattern=r"^(User|Application|Infrastructure|Preemption)$",
            description="Who has to act.",
        ),
    ]
    message: Annotated[str, Field(max_length=32_768, description="What, where, and what to do.")]
    ray_job: Annotated[str | None, Field(description="The RayJob whose trainer ended.")] = None


class Outputs(ApiModel):
    """What the run leaves."""

    adapter: Annotated[str | None, Field(description="URI of the adapter.")] = None
    report: Annotated[str | None, Field(description="URI of the report.")] = None


class TrainingStatus(ApiModel):
    """The trainer's part of the status."""

    term: Annotated[
        int,
        Field(ge=0, description="Term in which the driver that wrote this owns the run; 0 until it claims one."),
    ] = 0
    stages: Annotated[
        list[StageStatus],
        Field(max_length=64, description="Stages begun so far.", json_schema_extra=_map_by("index")),
    ] = []
    progress: Annotated[Progress | None, Field(description="The running stage.")] = None
    failure: Annotated[Failure | None, Field(description="Why the trainer ended, if it failed.")] = None
    outputs: Annotated[Outputs | None, Field(description="What the run leaves.")] = None


class Outcome(StrEnum):
    """How an attempt ended: well, because the user wanted it, or by one of the classes of failures."""

    SUCCEEDED = "Succeeded"
    SUSPENDED = "Suspended"
    USER = "User"
    APPLICATION = "Application"
    INFRASTRUCTURE = "Infrastructure"
    PREEMPTION = "Preemption"


class PodStatus(ApiModel):
    """The last that was seen of a pod."""

    name: Annotated[str, Field(description="The pod.")]
    node: Annotated[str | None, Field(description="Its node.")] = None
    phase: Annotated[str | None, Field(description="Its phase.")] = None
    reason: Annotated[str | None, Field(max_length=1024, description="Why it waits or ended, in a word.")] = None
    message: Annotated[str | None, Field(max_length=4096, description="Why it waits or ended.")] = None
    exit_code: Annotated[int | None, Field(description="Exit code of its first container.")] = None
    finished_at: Annotated[Time | None, Field(description="When that container ended.")] = None


class AttemptStatus(ApiModel):
    """One RayJob."""

    number: Annotated[int, Field(ge=1, description="Attempt, from 1.")]
    ray_job_name: Annotated[str, Field(description="The RayJob.")]
    ray_job_uid: Annotated[
        str | None, Field(alias="rayJobUID", description="Its identity, once the RayJob was seen.")
    ] = None
    started_at: Annotated[Time | None, Field(description="When the operator decided on it.")] = None
    active_since: Annotated[
        Time | None, Field(description="Since when it may run; none while it is queued or has ended.")
    ] = None
    active_seconds: Annotated[float | None, Field(ge=0, description="How long it was active before `activeSince`.")] = (
        None
    )
    head_pods: Annotated[
        int,
        Field(ge=0, description="Number of head pods so far. KubeRay and Kueue may restart an attempt with a new one."),
    ] = 0
    head_lost_at: Annotated[
        Time | None, Field(description="Since when its head pod is gone; none while there is one.")
    ] = None
    held_up_since: Annotated[
        Time | None, Field(description="Since when its cluster does not come up, for one and the same reason.")
    ] = None
    failure_seen_at: Annotated[
        Time | None,
        Field(description="When it was first seen to have failed; its pods may say why a moment later."),
    ] = None
    finished_at: Annotated[Time | None, Field(description="End.")] = None
    outcome: Annotated[Outcome | None, Field(description="How it ended.")] = None
    message: Annotated[str | None, Field(max_length=32_768, description="Why it ended so.")] = None
    pods: Annotated[
        list[PodStatus],
        Field(max_length=64, description="The pods' last states.", json_schema_extra=_map_by("name")),
    ] = []


class PromptInternJobStatus(ApiModel):
    """What is known of the job."""

    phase: Annotated[Phase | None, Field(description="The job in one word.")] = None
    conditions: Annotated[
        list[Condition],
        Field(max_length=32, description="Conditions, one a type.", json_schema_extra=_map_by("type")),
    ] = []
    observed_generation: Annotated[int | None, Field(ge=0, description="The spec's generation that was seen.")] = None
    attempts: Annotated[
        list[AttemptStatus],
        Field(max_length=1024, description="Attempts, one a RayJob.", json_schema_extra=_map_by("number")),
    ] = []
    ray_job_name: Annotated[str | None, Field(description="The current RayJob.")] = None
    current_head_pod_uid: Annotated[
        str | None, Field(alias="currentHeadPodUID", description="The pod that may write `training`.")
    ] = None
    check_held_up_since: Annotated[
        Time | None, Field(description="Since when the check does not get on, for one and the same reason.")
    ] = None
    start_time: Annotated[Time | None, Field(description="When the job was first accepted.")] = None
    storage: Annotated[
        StorageSpec | None,
        Field(description="Where the results of the accepted job go: `spec.storage`, else the chart's default then."),
    ] = None
    completion_time: Annotated[Time | None, Field(description="When the job ended.")] = None
    stage: Annotated[str | None, Field(description="For `kubectl get`: current stage of all, such as 2/4.")] = None
    tokens: Annotated[float | None, Field(description="For `kubectl get`: prompt tokens per query now.")] = None
    score: Annotated[str | None, Field(description="For `kubectl get`: newest score.")] = None
    training: Annotated[TrainingStatus | None, Field(description="Written by the trainer.")] = None
