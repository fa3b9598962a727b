"""PromptInternJob, v1alpha1: the whole object."""

# ruff: noqa: RUF012 -- pydantic copies a default for every object
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from promptintern_api.base import ApiModel, Rule
from promptintern_api.compute import CheckpointSpec, ComputeSpec, Device, Retries, StorageSpec
from promptintern_api.contract import ANNOTATION_RETRY, LABEL_PRIORITY, LABEL_QUEUE
from promptintern_api.data import DataSpec
from promptintern_api.evaluation import EvaluationSpec, OnGateFail, Reference
from promptintern_api.metrics import Metric
from promptintern_api.model import ModelSpec
from promptintern_api.prompt import PromptSpec, count_placeholder
from promptintern_api.schedule import ScheduleSpec
from promptintern_api.status import PromptInternJobStatus
from promptintern_api.training import LearningRatePolicy, TeacherLoss, TeacherModel, TrainingSpec

MUTABLE_SPEC_FIELDS = ("suspend", "retries", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
"""The fields of the spec that may change once the job has been accepted; all other fields are fixed from then on."""


class Metadata(ApiModel):
    """The part of the metadata that PromptIntern reads. All other keys of Kubernetes' metadata are accepted."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40),
        Field(
            description=(
                "Name of the job, a DNS-1035 label of at most 40 characters. The names of its pods, Services and other "
                "objects are derived from it."
            )
        ),
    ]
    namespace: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63),
        Field(description="Namespace of the job. It is also a part of the run's folder in the storage."),
    ] = "default"
    uid: Annotated[
        str | None,
        StringConstraints(pattern=r"^[0-9A-Za-z-]{8,64}$"),
        Field(
            description=(
                "Unique ID of the job, which the API server sets. It is a part of the run's folder in the storage. "
                "`promptintern run` instead uses a digest of the fields that decide what the job computes."
            )
        ),
    ] = None
    labels: Annotated[
        dict[str, str],
        Field(
            description=(
                f"Labels of the job. The label {LABEL_QUEUE} names the queue in which every attempt waits until Kueue "
                f"admits it, and {LABEL_PRIORITY} sets the priority in the queue."
            )
        ),
    ] = {}
    annotations: Annotated[
        dict[str, str],
        Field(
            description=(
                f"Annotations of the job. A new value of {ANNOTATION_RETRY} has a refused job checked again, and gives "
                "a failed job another attempt."
            )
        ),
    ] = {}


_SHOWS_NO_EXAMPLES = (
    "((has(self.schedule) && has(self.schedule.explicit)) ? self.schedule.explicit.all(s, s.shots == 0) : "
    "((has(self.schedule) && has(self.schedule.shots)) ? self.schedule.shots == 0 : !has(self.data.train)))"
)
"""The opposite of ``_shows_examples``, in CEL."""


_IS_ADAPTIVE = "has(self.schedule) && has(self.schedule.curve) && self.schedule.curve == 'Adaptive'"
"""Whether the stages are chosen while the job runs, in CEL."""
_HAS_STAGES = (
    "((has(self.schedule) && has(self.schedule.explicit)) ? self.schedule.explicit.size() > 1 : "
    "((has(self.schedule) && has(self.schedule.stages)) ? self.schedule.stages > 1 : "
    "(has(self.data.train) || (has(self.schedule) && has(self.schedule.curve)))))"
)
"""Whether there is more than one stage, in CEL."""


def _teaches_rows(spec: "PromptInternJobSpec") -> bool:
    teacher = spec.training.teacher
    return teacher is None or (teacher.model is not TeacherModel.BASE and teacher.loss is not TeacherLoss.ANSWERS)


def _shows_examples(spec: "PromptInternJobSpec") -> bool:
    schedule = spec.schedule
    if schedule.explicit is not None:
        return any(stage.shots > 0 for stage in schedule.explicit)
    return schedule.shots is None or schedule.shots > 0


class PromptInternJobSpec(ApiModel):
    """The desired run: the prompt, the base model that internalizes it, and the evaluation of the trained model."""

    model: Annotated[ModelSpec, Field(description="Base model whose weights learn the prompt.")]
    data: Annotated[DataSpec, Field(description="Training rows, queries without answers, and held-out rows.")]
    prompt: Annotated[PromptSpec, Field(description="Prompt that the model is to internalize.")]
    schedule: Annotated[
        ScheduleSpec,
        Field(description="Stages in which the template and the examples are removed from the prompt."),
    ] = ScheduleSpec()
    training: Annotated[TrainingSpec, Field(description="Settings of the training, which apply to every stage.")] = (
        TrainingSpec()
    )
    evaluation: Annotated[EvaluationSpec, Field(description="Evaluation of the trained model.")] = EvaluationSpec()
    compute: Annotated[
        ComputeSpec, Field(description="Workers, images, resources and placement of the job's pods.")
    ] = ComputeSpec()
    checkpoint: Annotated[
        CheckpointSpec,
        Field(description="Checkpoints within a stage, which limit how much work is lost in a hard kill."),
    ] = CheckpointSpec()
    storage: Annotated[
        StorageSpec | None,
        Field(
            description=(
                "Storage for adapters, reports, logs and checkpoints. If it is left out, the chart's `defaultStorage` "
                "is used, and the job is refused if there is none; `promptintern run` uses ./promptintern-runs instead."
            )
        ),
    ] = None
    suspend: Annotated[
        bool,
        Field(
            description=(
                "Whether the job is suspended. When it becomes true, the trainer saves and the Ray cluster is deleted. "
                "When it becomes false again, the job continues where it stopped. The field may change at any time."
            )
        ),
    ] = False
    retries: Annotated[
        Retries,
        Field(
            description=(
                "How many failed attempts of each class may be followed by another attempt. The numbers may change "
                "while the job runs."
            )
        ),
    ] = Retries()
    active_deadline_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=31_536_000,
            description=(
                "Seconds that the job may run, summed over its attempts, excluding time in a queue or in suspension. "
                "After that, the job fails with reason DeadlineExceeded. It may change while the job runs. If it is "
                "left out, there is no limit."
            ),
        ),
    ] = None
    ttl_seconds_after_finished: Annotated[
        int | None,
        Field(
            ge=0,
            le=31_536_000,
            description=(
                "Seconds between the end of the job and its deletion. The results in the storage are kept. If it is "
                "left out, the job is never deleted."
            ),
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _fill_schedule_without_rows(cls, data: Any) -> Any:
        """Without training rows there are no examples, and a stage with the teacher's own prompt teaches nothing.

        Therefore the defaults are then no examples and, unless the user asks for a curve, a single stage.
        """
        if not isinstance(data, dict) or not isinstance(data.get("data"), dict):
            return data
        schedule = data.get("schedule") or {}
        if data["data"].get("train") is not None or not isinstance(schedule, dict) or schedule.get("explicit"):
            return data
        given = {name: value for name, value in schedule.items() if value is not None}
        defaults = {"shots": 0} if "curve" in given else {"shots": 0, "stages": 1}
        return {**data, "schedule": defaults | given}

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="prompt.template",
            message=(
                "must hold {examples}, because the schedule has examples; to train without examples, set "
                "schedule.shots to 0"
            ),
            cel=f"self.prompt.template.contains('{{examples}}') || {_SHOWS_NO_EXAMPLES}",
            holds=lambda self: count_placeholder(self.prompt.template, "examples") > 0 or not _shows_examples(self),
        ),
        Rule(
            field="schedule.shots",
            message=(
                "must be 0 without data.train, because examples are training rows; with schedule.explicit, set shots "
                "to 0 in every stage"
            ),
            cel=f"has(self.data.train) || {_SHOWS_NO_EXAMPLES}",
            holds=lambda self: self.data.train is not None or not _shows_examples(self),
        ),
        Rule(
            field="training.teacher",
            message=(
                "has nothing to teach without data.queries or data.generate; leave it out, or set its model to "
                "PreviousStage or BestStage and its loss to ForwardKL or JensenShannon, so that stages teach the "
                "training rows"
            ),
            cel=(
                "!has(self.training) || !has(self.training.teacher) || has(self.data.queries) || "
                "has(self.data.generate) || "
                "(has(self.training.teacher.model) && self.training.teacher.model != 'Base' && "
                "(!has(self.training.teacher.loss) || self.training.teacher.loss != 'Answers'))"
            ),
            holds=lambda self: self.data.has_queries or _teaches_rows(self),
        ),
        Rule(
            field="training.teacher.model",
            message="must be Base if there is only one stage, because no earlier stage can teach it",
            cel=(
                "!has(self.training) || !has(self.training.teacher) || !has(self.training.teacher.model) || "
                f"self.training.teacher.model == 'Base' || {_HAS_STAGES}"
            ),
            holds=lambda self: (
                self.training.teacher is None
                or self.training.teacher.model is TeacherModel.BASE
                or self.schedule.num_stages > 1
            ),
        ),
        Rule(
            field="training.betweenStages.learningRate",
            message=(
                "must be Restart with schedule.curve Adaptive, because the number of steps is not known before the "
                "stages are trained"
            ),
            cel=(
                f"!({_IS_ADAPTIVE}) || !has(self.training) || !has(self.training.betweenStages) || "
                "!has(self.training.betweenStages.learningRate) || "
                "self.training.betweenStages.learningRate == 'Restart'"
            ),
            holds=lambda self: (
                not self.schedule.is_adaptive
                or self.training.between_stages.learning_rate is LearningRatePolicy.RESTART
            ),
        ),
        Rule(
            field="evaluation.gate.onFail",
            message=(
                "must be Continue with schedule.curve Adaptive, which discards a stage whose score drops too far below "
                "that of the stage it started from, and tries a smaller step"
            ),
            cel=(
                f"!({_IS_ADAPTIVE}) || !has(self.evaluation) || !has(self.evaluation.gate) || "
                "!has(self.evaluation.gate.onFail) || self.evaluation.gate.onFail == 'Continue'"
            ),
            holds=lambda self: not self.schedule.is_adaptive or self.evaluation.gate.on_fail is OnGateFail.CONTINUE,
        ),
        Rule(
            field="training.teacher.model",
            message=(
                "must be Base or PreviousStage if evaluation.reference is FullPrompt, because the full prompt then has "
                "the highest score by definition"
            ),
            cel=(
                "!has(self.training) || !has(self.training.teacher) || !has(self.training.teacher.model) || "
                "self.training.teacher.model != 'BestStage' || !has(self.evaluation) || "
                "!has(self.evaluation.reference) || self.evaluation.reference != 'FullPrompt'"
            ),
            holds=lambda self: (
                self.training.teacher is None
                or self.training.teacher.model is not TeacherModel.BEST_STAGE
                or self.evaluation.reference is not Reference.FULL_PROMPT
            ),
        ),
        Rule(
            field="evaluation.metrics",
            message=(
                "PassAt1 needs data.eval.columns.tests, the column with the tests of each held-out row, and "
                "evaluation.reference Answers"
            ),
            cel=(
                "!has(self.evaluation) || !has(self.evaluation.metrics) || !('PassAt1' in self.evaluation.metrics) || "
                "(has(self.data.eval.columns) && has(self.data.eval.columns.tests) && "
                "(!has(self.evaluation.reference) || self.evaluation.reference == 'Answers'))"
            ),
            holds=lambda self: (
                Metric.PASS_AT_1 not in self.evaluation.metrics
                or (self.data.eval.columns.tests is not None and self.evaluation.reference is not Reference.FULL_PROMPT)
            ),
        ),
        Rule(
            field="compute.gpusPerWorker",
            message="must be 0 if compute.device is CPU; set compute.device to Auto or CUDA to train on GPUs",
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
            f"cannot change once the job has been accepted; only {', '.join(MUTABLE_SPEC_FIELDS)} can. Delete the job "
            "and create it again, or create a job with another name"
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
    """A PromptInternJob fine-tunes a base model until the model no longer needs a given prompt."""

    api_version: Annotated[Literal["promptintern.dev/v1alpha1"], Field(description="Version of this API.")]
    kind: Annotated[Literal["PromptInternJob"], Field(description="Kind of this object.")]
    metadata: Annotated[Metadata, Field(description="Name, namespace and labels of the job.")]
    spec: Annotated[
        PromptInternJobSpec,
        Field(description="Desired run: the prompt, the base model, and the evaluation of the trained model."),
    ]
    status: Annotated[
        PromptInternJobStatus | None,
        Field(
            description=(
                "Observed state of the job. The head pod of the job writes `training` and the operator writes all "
                "other fields; users only read the status."
            )
        ),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = tuple(
        _fixed_once_accepted(field.alias)
        for field in PromptInternJobSpec.model_fields.values()
        if field.alias is not None and field.alias not in MUTABLE_SPEC_FIELDS
    )
