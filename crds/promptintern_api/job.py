"""PromptInternJob, v1alpha1: the whole object."""

# ruff: noqa: RUF012 -- pydantic copies a default for every object
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints

from promptintern_api.base import ApiModel, Rule
from promptintern_api.compute import CheckpointSpec, ComputeSpec, Device, Retries, StorageSpec
from promptintern_api.data import DataSpec
from promptintern_api.evaluation import EvaluationSpec
from promptintern_api.model import ModelSpec
from promptintern_api.prompt import PromptSpec, count_placeholder
from promptintern_api.schedule import ScheduleSpec
from promptintern_api.status import PromptInternJobStatus
from promptintern_api.training import TrainingSpec

GROUP = "promptintern.dev"
VERSION = "v1alpha1"
KIND = "PromptInternJob"
PLURAL = "promptinternjobs"
SHORT_NAME = "pij"

MUTABLE_SPEC_FIELDS = ("suspend", "retries", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
"""What may change after the job was accepted; the rest of the spec is fixed from then on."""


class Metadata(ApiModel):
    """The part of an object's metadata that the trainer reads. Other keys belong to Kubernetes and pass."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40),
        Field(description="DNS-1035 label of at most 40 characters."),
    ]
    namespace: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63),
        Field(description="Namespace, and a folder in the storage."),
    ] = "default"
    uid: Annotated[
        str | None,
        StringConstraints(pattern=r"^[0-9A-Za-z-]{8,64}$"),
        Field(description="Given by the API server; part of the run's folder."),
    ] = None
    labels: Annotated[
        dict[str, str], Field(description="Labels; kueue.x-k8s.io/queue-name has Kueue admit the job.")
    ] = {}


def _asks_for_examples(spec: "PromptInternJobSpec") -> bool:
    schedule = spec.schedule
    if schedule.explicit is not None:
        return any(stage.shots > 0 for stage in schedule.explicit)
    return schedule.shots is None or schedule.shots > 0


class PromptInternJobSpec(ApiModel):
    """What to internalize, into what, and how to judge it."""

    model: Annotated[ModelSpec, Field(description="The base model.")]
    data: Annotated[DataSpec, Field(description="Training and held-out rows.")]
    prompt: Annotated[PromptSpec, Field(description="The prompt that is to become unnecessary.")]
    schedule: Annotated[ScheduleSpec, Field(description="How template and examples go away.")] = ScheduleSpec()
    training: Annotated[TrainingSpec, Field(description="How every stage is trained.")] = TrainingSpec()
    evaluation: Annotated[EvaluationSpec, Field(description="How the result is judged.")] = EvaluationSpec()
    compute: Annotated[ComputeSpec, Field(description="Where it runs.")] = ComputeSpec()
    checkpoint: Annotated[CheckpointSpec, Field(description="How much work a hard kill may cost.")] = CheckpointSpec()
    storage: Annotated[
        StorageSpec | None,
        Field(
            description=(
                "Where results go. Without it: the chart's default storage, or ./promptintern-runs for "
                "`promptintern run`."
            )
        ),
    ] = None
    suspend: Annotated[bool, Field(description="Save, give the cluster back, and wait until this is false.")] = False
    retries: Annotated[Retries, Field(description="How often a failed attempt is followed by another.")] = Retries()
    active_deadline_seconds: Annotated[
        int | None,
        Field(ge=1, le=31_536_000, description="Longest running time, without queued and suspended time."),
    ] = None
    ttl_seconds_after_finished: Annotated[
        int | None,
        Field(ge=0, le=31_536_000, description="Delete the job so long after its end. Stored output stays."),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="prompt.template",
            message="must hold {examples}, since the schedule asks for examples; or set schedule.shots to 0",
            cel=(
                "self.prompt.template.contains('{examples}') || (has(self.schedule) && "
                "(has(self.schedule.explicit) ? self.schedule.explicit.all(s, s.shots == 0) : "
                "(has(self.schedule.shots) && self.schedule.shots == 0)))"
            ),
            holds=lambda self: count_placeholder(self.prompt.template, "examples") > 0 or not _asks_for_examples(self),
        ),
        Rule(
            field="compute.gpusPerWorker",
            message="must be 0 with device CPU",
            cel=(
                "!has(self.compute) || !has(self.compute.device) || self.compute.device != 'CPU' || "
                "!has(self.compute.gpusPerWorker) || self.compute.gpusPerWorker == 0"
            ),
            holds=lambda self: self.compute.device is not Device.CPU or self.compute.gpus_per_worker == 0,
        ),
    )


def _fixed_once_accepted(name: str) -> Rule:
    return Rule(
        field=f"spec.{name}",
        message=(
            f"cannot change once the job was accepted; only {', '.join(MUTABLE_SPEC_FIELDS)} can. Delete the job, or "
            "create another one under a new name"
        ),
        cel=(
            "!has(oldSelf.status) || !has(oldSelf.status.startTime) || "
            f"(has(self.spec.{name}) == has(oldSelf.spec.{name}) && "
            f"(!has(self.spec.{name}) || self.spec.{name} == oldSelf.spec.{name}))"
        ),
        holds=lambda _: True,
        transition=True,
    )


class PromptInternJob(ApiModel):
    """One prompt to internalize."""

    api_version: Annotated[Literal["promptintern.dev/v1alpha1"], Field(description="The version of this API.")]
    kind: Annotated[Literal["PromptInternJob"], Field(description="The kind of this object.")]
    metadata: Annotated[Metadata, Field(description="Name, namespace and labels.")]
    spec: Annotated[PromptInternJobSpec, Field(description="What is asked for.")]
    status: Annotated[
        PromptInternJobStatus | None, Field(description="What is known. Written by the operator, never by a user.")
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = tuple(
        _fixed_once_accepted(field.alias)
        for field in PromptInternJobSpec.model_fields.values()
        if field.alias is not None and field.alias not in MUTABLE_SPEC_FIELDS
    )
