"""status: the observed state of a job. The head pod writes ``training``, and the operator writes all other fields."""

# ruff: noqa: RUF012 -- pydantic copies a default for every object
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from promptintern_api.base import ApiModel, Time, map_by
from promptintern_api.compute import StorageSpec
from promptintern_api.contract import ANNOTATION_RETRY, RETRY_CHARACTERS
from promptintern_api.training_status import TrainingStatus

MAX_REASON, MAX_MESSAGE = 1024, 32_768
"""The largest numbers of characters of a reason and of a message."""


class Phase(StrEnum):
    """The state of a job in one word, derived from its conditions."""

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
    """A condition of the job, with the fields that every condition in Kubernetes has. The operator writes it."""

    type: Annotated[
        str,
        Field(
            max_length=316,
            description=(
                "Type of the condition. Accepted: the check of the spec passed, and the job may start. QuotaReserved: "
                "Kueue admitted the attempt. ClusterReady: all pods of the Ray cluster are ready. Training: the "
                "trainer runs. Suspended: spec.suspend is true and the cluster is gone. Succeeded and Failed: the job "
                "is over. Internalized: the query alone is enough."
            ),
        ),
    ]
    status: Annotated[
        str,
        Field(pattern=r"^(True|False|Unknown)$", description="Whether the condition holds: True, False or Unknown."),
    ]
    reason: Annotated[
        str,
        Field(
            max_length=MAX_REASON,
            description="Cause of the status in one word, for programs. docs/conditions.md lists all reasons.",
        ),
    ]
    message: Annotated[
        str, Field(max_length=MAX_MESSAGE, description="Explanation for people: what happened, where, and what to do.")
    ]
    last_transition_time: Annotated[Time, Field(description="Time at which `status` last changed.")]
    observed_generation: Annotated[
        int | None, Field(ge=0, description="Generation of the spec that the condition describes.")
    ] = None


class Outcome(StrEnum):
    """The way in which an attempt ended: with success, with a suspension, or with a failure of one of four classes."""

    SUCCEEDED = "Succeeded"
    SUSPENDED = "Suspended"
    USER = "User"
    APPLICATION = "Application"
    INFRASTRUCTURE = "Infrastructure"
    PREEMPTION = "Preemption"


class PodStatus(ApiModel):
    """The last observed state of a pod."""

    name: Annotated[str, Field(description="Name of the pod.")]
    node: Annotated[
        str | None, Field(description="Name of the pod's node. It is left out until the pod is scheduled.")
    ] = None
    phase: Annotated[
        str | None, Field(description="Phase of the pod: Pending, Running, Succeeded, Failed or Unknown.")
    ] = None
    reason: Annotated[
        str | None,
        Field(
            max_length=MAX_REASON, description="Reason why the pod is waiting or ended, in one word, such as OOMKilled."
        ),
    ] = None
    message: Annotated[
        str | None, Field(max_length=4096, description="Explanation of why the pod is waiting or ended, for people.")
    ] = None
    exit_code: Annotated[
        int | None,
        Field(
            description=(
                "Exit code of the container that runs Ray or the check or, if it never ran, of the first container "
                "that failed. It is left out while the container runs."
            )
        ),
    ] = None
    finished_at: Annotated[
        Time | None, Field(description="Time at which the container that `exitCode` describes ended.")
    ] = None


class AttemptStatus(ApiModel):
    """An attempt to run the job. Each attempt is one RayJob."""

    number: Annotated[int, Field(ge=1, description="Number of the attempt, counted from 1.")]
    ray_job_name: Annotated[str, Field(description="Name of the attempt's RayJob.")]
    ray_job_uid: Annotated[
        str | None,
        Field(
            alias="rayJobUID", description="UID of the RayJob. It is left out until the operator has seen the RayJob."
        ),
    ] = None
    started_at: Annotated[
        Time | None, Field(description="Time at which the operator decided to start the attempt.")
    ] = None
    active_since: Annotated[
        Time | None,
        Field(
            description=(
                "Time at which the attempt last became active, which means that it no longer waits in a queue. It is "
                "left out while the attempt waits, and once the attempt has ended."
            ),
        ),
    ] = None
    active_seconds: Annotated[
        float | None,
        Field(
            ge=0,
            description=(
                "Seconds that the attempt was active before `activeSince`. spec.activeDeadlineSeconds limits the sum "
                "over all attempts."
            ),
        ),
    ] = None
    head_pods: Annotated[
        int,
        Field(
            ge=0,
            description=(
                "Number of head pods that the attempt has had so far. It is above 1 if KubeRay or Kueue restarted the "
                "attempt with a new head pod."
            ),
        ),
    ] = 0
    head_lost_at: Annotated[
        Time | None,
        Field(
            description=(
                "Time at which the operator noticed that the head pod is lost. It is left out while the attempt has a "
                "head pod."
            ),
        ),
    ] = None
    held_up_since: Annotated[
        Time | None,
        Field(
            description=(
                "Time at which the current cause began to keep the Ray cluster from coming up. It is left out while "
                "nothing holds the cluster up."
            ),
        ),
    ] = None
    failure_seen_at: Annotated[
        Time | None,
        Field(
            description=(
                "Time at which the operator first saw that the attempt failed. The operator then waits a few seconds "
                "for the attempt's pods to report the cause."
            ),
        ),
    ] = None
    finished_at: Annotated[
        Time | None, Field(description="Time at which the attempt ended. It is left out while the attempt goes on.")
    ] = None
    trained_seconds: Annotated[
        float | None,
        Field(
            ge=0,
            description=(
                "Seconds for which the trainer of the attempt had run when the attempt ended. It is left out while the "
                "attempt goes on."
            ),
        ),
    ] = None
    outcome: Annotated[
        Outcome | None,
        Field(
            description=(
                "Way in which the attempt ended. Succeeded: all stages are done. Suspended: spec.suspend became true. "
                "User: the job or its data is wrong, or spec.activeDeadlineSeconds has passed; the job then fails. "
                "Application: the trainer failed. Infrastructure: a node, a pod, the storage or a model hub failed. "
                "Preemption: the cluster removed a pod. spec.retries limits Application, Infrastructure, and short "
                "attempts in a row that end in Preemption; there is no limit on the attempts that follow Suspended. It "
                "is left out while the attempt goes on."
            )
        ),
    ] = None
    message: Annotated[
        str | None, Field(max_length=MAX_MESSAGE, description="Explanation of the outcome, for people.")
    ] = None
    pods: Annotated[
        list[PodStatus],
        Field(
            max_length=64,
            description=(
                "Last states of the attempt's pods, the head first, including pods that failed and were replaced. Only "
                "the newest attempts keep these states."
            ),
            json_schema_extra=map_by("name"),
        ),
    ] = []


class PromptInternJobStatus(ApiModel):
    """The observed state of a job. The operator writes all fields except `training`."""

    phase: Annotated[
        Phase | None,
        Field(
            description=(
                "State of the job in one word, derived from the conditions. Pending: the job waits for the operator, "
                "for KubeRay or for its next attempt. Checking: the job and its data are being checked. Refused: the "
                "job or the cluster has to be changed; see condition Accepted. Queued: Kueue has not admitted the job. "
                "Starting: the Ray cluster is coming up. Training: the trainer runs. Suspended: spec.suspend is true "
                "and the cluster is gone. Succeeded and Failed: the job is over."
            )
        ),
    ] = None
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=32,
            description="Conditions of the job, one for each type. docs/conditions.md explains their reasons.",
            json_schema_extra=map_by("type"),
        ),
    ] = []
    observed_generation: Annotated[
        int | None, Field(ge=0, description="Generation of the spec that the operator last processed.")
    ] = None
    attempts: Annotated[
        list[AttemptStatus],
        Field(
            max_length=1024,
            description=(
                "Attempts to run the job, one for each RayJob, the oldest first. If there are very many attempts, the "
                "oldest preempted and suspended ones are dropped."
            ),
            json_schema_extra=map_by("number"),
        ),
    ] = []
    ray_job_name: Annotated[
        str | None, Field(description="Name of the newest RayJob. It is left out before the first attempt.")
    ] = None
    current_head_pod_uid: Annotated[
        str | None,
        Field(
            alias="currentHeadPodUID",
            description=(
                "UID of the head pod that may write `training`; an admission policy of the chart enforces this. The "
                "UID is left out while there is no head pod."
            ),
        ),
    ] = None
    check_held_up_since: Annotated[
        Time | None,
        Field(
            description=(
                "Time since which the same cause has kept the check from starting. It is left out while nothing holds "
                "the check up."
            )
        ),
    ] = None
    handled_retry: Annotated[
        str | None,
        Field(
            max_length=RETRY_CHARACTERS,
            description=f"Value of the annotation {ANNOTATION_RETRY} at which the operator last acted.",
        ),
    ] = None
    retried_after_attempt: Annotated[
        int | None,
        Field(
            ge=1,
            description=(
                "Number of the last attempt before the newest requested retry. spec.retries limits only the attempts "
                "after it."
            ),
        ),
    ] = None
    retried_after_check: Annotated[
        int | None,
        Field(
            ge=1,
            description="Number of the last check before the newest requested retry. Only later checks count.",
        ),
    ] = None
    start_time: Annotated[
        Time | None,
        Field(description="Time at which the job was accepted. From then on, most of the spec cannot change."),
    ] = None
    storage: Annotated[
        StorageSpec | None,
        Field(
            description=(
                "Storage of the accepted job: `spec.storage`, or the chart's `defaultStorage` at the time of "
                "acceptance. If the chart's default changes later, the job keeps its storage."
            )
        ),
    ] = None
    config_map: Annotated[
        str | None,
        Field(
            description=(
                "Name of the ConfigMap from which the job's newest pods read the job. It is immutable, and its name "
                "and the digest in the pods' commands depend on its content. It is left out before the check."
            )
        ),
    ] = None
    check_uid: Annotated[
        str | None,
        Field(
            alias="checkUID",
            description=(
                "UID of the Job of the newest check. The operator believes no other Job that claims to be the check."
            ),
        ),
    ] = None
    completion_time: Annotated[
        Time | None, Field(description="Time at which the job succeeded or failed. It is left out until then.")
    ] = None
    reason: Annotated[
        str | None,
        Field(
            max_length=1024,
            description=(
                "Reason of the condition that explains the phase, for `kubectl get`: what holds the job up, or how it "
                "ended."
            ),
        ),
    ] = None
    stage: Annotated[
        str | None,
        Field(description="Newest stage, counted from 1, and the number of stages, such as 2/4, for `kubectl get`."),
    ] = None
    tokens: Annotated[
        float | None,
        Field(
            description=(
                "Mean number of prompt tokens per query, for `kubectl get`: in the newest stage or, once the run has "
                "succeeded, of the result."
            )
        ),
    ] = None
    tokens_before: Annotated[
        float | None,
        Field(description="Mean number of tokens of the full prompt, for `kubectl get`, once the run has succeeded."),
    ] = None
    score: Annotated[
        str | None,
        Field(
            description=(
                "Score, for `kubectl get`: of the newest stage that has been evaluated, on evaluation.stageRows rows, "
                "or, once the run has succeeded, of the result on all held-out rows, with its 95 % interval."
            )
        ),
    ] = None
    verdict: Annotated[
        str | None,
        Field(max_length=64, description="Verdict on the result, for `kubectl get`, once the run has succeeded."),
    ] = None
    training: Annotated[
        TrainingStatus | None,
        Field(
            description=(
                "Progress and results of the training, written by the head pod of the job. It is left out until the "
                "first stage begins."
            )
        ),
    ] = None
