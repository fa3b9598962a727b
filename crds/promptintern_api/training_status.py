"""status.training: the part of the status that the head pod of the job writes."""

# ruff: noqa: RUF012 -- pydantic copies a default for every object
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from promptintern_api.base import ApiModel, Time, map_by


class StageStatus(ApiModel):
    """The progress and the results of one stage."""

    index: Annotated[int, Field(ge=0, le=63, description="Number of the stage, counted from 0.")]
    rate: Annotated[float, Field(description="Share of the template's tokens that the prompts of the stage keep.")]
    shots: Annotated[int, Field(description="Number of examples in the prompts of the stage.")]
    prompt_tokens: Annotated[float, Field(description="Mean number of prompt tokens per training row.")]
    loss: Annotated[
        float | None,
        Field(description="Mean loss per answer token in the newest step. It is left out before the first step."),
    ] = None
    score: Annotated[
        float | None,
        Field(
            description=(
                "Score of the stage on the first evaluation.stageRows held-out rows, measured by the first metric of "
                "evaluation.metrics. It is left out until the stage has been evaluated."
            )
        ),
    ] = None
    seconds: Annotated[
        float | None,
        Field(
            ge=0,
            description=(
                "Seconds for which the stage has been trained, over all attempts, without evaluation and without the "
                "time between attempts."
            ),
        ),
    ] = None
    started_at: Annotated[Time | None, Field(description="Time at which the training of the stage began.")] = None
    finished_at: Annotated[
        Time | None,
        Field(description="Time at which the stage was committed to the storage. It is left out until then."),
    ] = None
    checkpoint: Annotated[
        str | None,
        Field(
            description=(
                "URI of the newest checkpoint of the stage. It is left out before the first checkpoint, and once the "
                "stage is committed."
            )
        ),
    ] = None


class TimeShares(ApiModel):
    """The share of the training time that each activity took, measured by the first worker. The shares sum to 1."""

    data: Annotated[float, Field(ge=0, description="Share spent on building packs and copying them to the device.")] = (
        0.0
    )
    forward: Annotated[float, Field(ge=0, description="Share spent on forward passes.")] = 0.0
    backward: Annotated[float, Field(ge=0, description="Share spent on backward passes.")] = 0.0
    exchange: Annotated[
        float,
        Field(
            ge=0,
            description="Share spent on summing gradients over all workers, including the wait for slower workers.",
        ),
    ] = 0.0
    optimizer: Annotated[float, Field(ge=0, description="Share spent on gradient clipping and the optimizer.")] = 0.0
    save: Annotated[
        float, Field(ge=0, description="Share spent on progress reports and checkpoints that hold up training.")
    ] = 0.0


class Progress(ApiModel):
    """The progress of the running stage, or of the arm Direct."""

    name: Annotated[
        str | None,
        Field(max_length=100, description="What is being trained, such as `stage 2/4` or `arm Direct`."),
    ] = None
    step: Annotated[int, Field(ge=0, description="Number of optimizer steps of this stage that are done.")]
    total: Annotated[int, Field(ge=0, description="Total number of optimizer steps of this stage.")]
    examples_per_second: Annotated[
        float | None, Field(description="Training rows per second, averaged over the stage so far.")
    ] = None
    tokens_per_second: Annotated[
        float | None, Field(description="Tokens of prompts and answers per second, averaged over the stage so far.")
    ] = None
    computed_tokens_per_second: Annotated[
        float | None,
        Field(
            description=(
                "Tokens that the model computes per second; tokens of a prefix that several prompts share are counted "
                "once."
            )
        ),
    ] = None
    loss_tokens_per_second: Annotated[
        float | None, Field(description="Answer tokens per second; only these tokens have a loss.")
    ] = None
    mfu: Annotated[
        float | None,
        Field(
            description=(
                "Model FLOPs utilization, from 0 to 1. It is left out if the peak performance of the device is unknown."
            )
        ),
    ] = None
    time_shares: Annotated[
        TimeShares | None, Field(description="Share of the stage's training time that each activity took.")
    ] = None
    eta_seconds: Annotated[
        float | None,
        Field(description="Seconds until the last step of this stage, estimated from the most recent steps."),
    ] = None


class Answering(ApiModel):
    """The answers that the model is generating."""

    name: Annotated[
        str,
        Field(
            max_length=100,
            description="What the answers are for: the teacher, an arm such as `arm FullPrompt`, or a stage.",
        ),
    ]
    answered: Annotated[int, Field(ge=0, description="Number of answers that are generated.")]
    total: Annotated[int, Field(ge=0, description="Total number of answers.")]
    eta_seconds: Annotated[
        float | None,
        Field(description="Seconds until the last of these answers, estimated from the most recent ones."),
    ] = None


class VerdictOutcome(StrEnum):
    """The answer to the question of whether the query alone is enough."""

    INTERNALIZED = "Internalized"
    INCONCLUSIVE = "Inconclusive"
    NOT_INTERNALIZED = "NotInternalized"
    STOPPED_BY_GATE = "StoppedByGate"


class Result(ApiModel):
    """The figures of a finished run, as in the report."""

    verdict: Annotated[
        VerdictOutcome,
        Field(
            description=(
                "Verdict on the result. Internalized: the query alone is enough. Inconclusive: the held-out rows do "
                "not show whether it is. NotInternalized: it is not. StoppedByGate: a stage lost too much, so that the "
                "result still needs a part of the prompt."
            )
        ),
    ]
    headline: Annotated[str, Field(max_length=4096, description="Verdict in one sentence, with its figures.")]
    metric: Annotated[str, Field(max_length=64, description="Metric of the scores.")]
    score: Annotated[
        float | None,
        Field(description="Score of the result on all held-out rows. It is left out if no stage passed the gate."),
    ] = None
    score_low: Annotated[float | None, Field(description="Lower end of the 95 % interval of `score`.")] = None
    score_high: Annotated[float | None, Field(description="Upper end of the 95 % interval of `score`.")] = None
    full_prompt_score: Annotated[float, Field(description="Score of the base model with the full prompt.")]
    rows: Annotated[int, Field(ge=0, description="Number of held-out rows.")]
    tokens_before: Annotated[float, Field(ge=0, description="Mean number of tokens of the full prompt.")]
    tokens_after: Annotated[
        float | None,
        Field(ge=0, description="Mean number of prompt tokens that the result needs. It is left out like `score`."),
    ] = None


class Failure(ApiModel):
    """A failure that the trainer reported."""

    failure_class: Annotated[
        str,
        Field(
            alias="class",
            pattern=r"^(User|Application|Infrastructure|Preemption)$",
            description=(
                "Class of the failure, which says who has to act. User: the job or its data is wrong. Application: the "
                "trainer failed. Infrastructure: a node, a pod, the storage or a model hub failed. Preemption: the "
                "cluster removed a pod; this version's trainer never sets this class."
            ),
        ),
    ]
    message: Annotated[
        str, Field(max_length=32_768, description="Explanation for people: what failed, where, and what to do.")
    ]
    ray_job: Annotated[str | None, Field(description="Name of the RayJob whose trainer failed.")] = None


class Outputs(ApiModel):
    """The results of a run that succeeded."""

    adapter: Annotated[str | None, Field(description="URI of the folder with the adapter.")] = None
    report: Annotated[str | None, Field(description="URI of the report, an HTML file.")] = None


class TrainingStatus(ApiModel):
    """The part of the status that the head pod of the job writes, a few times a minute."""

    term: Annotated[
        int,
        Field(
            ge=0,
            description=(
                "Term in which the driver that wrote this status owns the run. Each driver that takes over the run "
                "claims the next term. It is 0 before the first claim."
            ),
        ),
    ] = 0
    stages: Annotated[
        list[StageStatus],
        Field(
            max_length=64,
            description="Stages that have begun, including those that are finished.",
            json_schema_extra=map_by("index"),
        ),
    ] = []
    progress: Annotated[
        Progress | None,
        Field(description="Progress of the running stage. It is left out while no stage is being trained."),
    ] = None
    answering: Annotated[
        Answering | None,
        Field(description="Answers that the model is generating. It is left out while a stage is being trained."),
    ] = None
    failure: Annotated[
        Failure | None, Field(description="Failure that ended the trainer. It is left out unless the trainer failed.")
    ] = None
    result: Annotated[
        Result | None, Field(description="Verdict and figures. They are left out until the run has succeeded.")
    ] = None
    outputs: Annotated[
        Outputs | None, Field(description="Results of the run. They are left out until the run has succeeded.")
    ] = None
