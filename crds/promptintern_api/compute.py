"""spec.compute, spec.checkpoint, spec.storage, spec.retries: where the job runs and what survives it."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Rule
from promptintern_api.references import ObjectName, SecretRef, StorageUri

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$", max_length=32)]


class Device(StrEnum):
    """What computes."""

    AUTO = "Auto"
    CPU = "CPU"
    CUDA = "CUDA"


class Resources(ApiModel):
    """What one worker pod asks for and may not pass."""

    cpu: Annotated[Quantity | None, Field(description="CPU cores, such as `4` or `500m`.")] = None
    memory: Annotated[Quantity | None, Field(description="Memory, such as `32Gi`.")] = None


class Toleration(ApiModel):
    """A toleration as in a pod's spec."""

    key: Annotated[
        str | None, Field(max_length=317, description="Taint key; left out with operator Exists it matches all.")
    ] = None
    operator: Annotated[
        str | None, StringConstraints(pattern=r"^(Exists|Equal)$", max_length=6), Field(description="Exists or Equal.")
    ] = None
    value: Annotated[str | None, Field(max_length=63, description="Taint value, with operator Equal.")] = None
    effect: Annotated[
        str | None,
        StringConstraints(pattern=r"^(NoSchedule|PreferNoSchedule|NoExecute)$", max_length=16),
        Field(description="Taint effect; empty matches all."),
    ] = None
    toleration_seconds: Annotated[int | None, Field(ge=0, description="How long a NoExecute taint is borne.")] = None

    # The API server asks this of pods only, and RayJobs are no pods.
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="operator",
            message="must be Exists if there is no key",
            cel="(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
            holds=lambda one: bool(one.key) or one.operator == "Exists",
        ),
        Rule(
            field="value",
            message="must be left out with operator Exists",
            cel="!has(self.value) || self.value == '' || !has(self.operator) || self.operator != 'Exists'",
            holds=lambda one: not one.value or one.operator != "Exists",
        ),
        Rule(
            field="effect",
            message="must be NoExecute with tolerationSeconds",
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            holds=lambda one: one.toleration_seconds is None or one.effect == "NoExecute",
        ),
    )


class ModelCache(ApiModel):
    """A volume that holds base models, so that no pod downloads them again."""

    claim_name: Annotated[ObjectName, Field(description="PersistentVolumeClaim in the job's namespace.")]
    mount_path: Annotated[
        str,
        StringConstraints(pattern=r"^/[A-Za-z0-9._/-]+$", max_length=256),
        Field(description="Where head and workers see it. Models of a hub are cached in its folder `hub`."),
    ] = "/models"
    read_only: Annotated[bool, Field(description="Mount it for reading only, as file:///MOUNT/... needs.")] = False


class Affinity(ApiModel):
    """Where pods may and may not run, as in a pod's spec."""

    node_affinity: Annotated[dict[str, Any] | None, Field(description="As in a pod's spec.")] = None
    pod_affinity: Annotated[dict[str, Any] | None, Field(description="As in a pod's spec.")] = None
    pod_anti_affinity: Annotated[dict[str, Any] | None, Field(description="As in a pod's spec.")] = None


class ComputeSpec(ApiModel):
    """The cluster of one job. `promptintern run` uses `device` and `gpusPerWorker` only; it has --workers."""

    workers: Annotated[int, Field(ge=1, le=1024, description="Training workers, one a pod.")] = 1
    gpus_per_worker: Annotated[
        int, Field(ge=0, le=16, description="GPUs of one worker, which trains on one of them: for more, add workers.")
    ] = 0
    device: Annotated[
        Device,
        Field(description="Auto takes a GPU where there is one; CUDA fails at once where there is none."),
    ] = Device.AUTO
    image: Annotated[
        str | None,
        StringConstraints(min_length=1, max_length=512),
        Field(description="Trainer image. Default: the chart's."),
    ] = None
    ray_version: Annotated[
        str | None,
        StringConstraints(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$"),
        Field(description="Ray version in the image. Default: the chart's."),
    ] = None
    resources: Annotated[Resources, Field(description="CPU and memory of one worker pod. Default: the chart's.")] = (
        Resources()
    )
    head_resources: Annotated[
        Resources,
        Field(description="CPU and memory of the head pod, which trains nothing. Default: the chart's."),
    ] = Resources()
    node_selector: Annotated[
        dict[str, str] | None, Field(max_length=64, description="Labels that a worker's node must have.")
    ] = None
    head_node_selector: Annotated[
        dict[str, str] | None,
        Field(max_length=64, description="Labels that the node of the head, and of the check before it, must have."),
    ] = None
    tolerations: Annotated[
        list[Toleration] | None, Field(max_length=64, description="Taints that all pods of the job bear.")
    ] = None
    affinity: Annotated[Affinity | None, Field(description="Where workers may and may not run.")] = None
    priority_class_name: Annotated[ObjectName | None, Field(description="PriorityClass of the pods.")] = None
    image_pull_secrets: Annotated[
        list[SecretRef] | None,
        Field(max_length=16, description="Secrets in the job's namespace that open the image's registry."),
    ] = None
    service_account_annotations: Annotated[
        dict[str, str] | None,
        Field(
            max_length=16,
            description=(
                "Annotations of the job's ServiceAccount, promptintern-NAME, by which a cloud gives its pods an "
                "identity. The author must be allowed to create ServiceAccounts."
            ),
        ),
    ] = None
    model_cache: Annotated[ModelCache | None, Field(description="A volume that holds base models.")] = None
    termination_grace_period_seconds: Annotated[
        int, Field(ge=0, le=86_400, description="Time that a planned stop leaves for saving.")
    ] = 120


class CheckpointSpec(ApiModel):
    """How much work a hard kill may cost."""

    every_seconds: Annotated[int, Field(ge=1, le=86_400, description="Time between checkpoints within a stage.")] = 300
    keep: Annotated[
        int,
        Field(ge=1, le=100, description="Checkpoints kept in a running stage; none stay after its commit."),
    ] = 2


class StorageSpec(ApiModel):
    """Where adapters, reports and checkpoints go."""

    uri: Annotated[
        StorageUri,
        Field(description="s3://BUCKET/PREFIX or file:///PATH. The run's folder is NAMESPACE/NAME-ID under it."),
    ]
    endpoint: Annotated[
        str | None,
        StringConstraints(pattern=r"^https?://.+$", max_length=1024),
        Field(description="S3 endpoint, for servers other than AWS."),
    ] = None
    region: Annotated[str | None, StringConstraints(max_length=64), Field(description="S3 region.")] = None
    secret_ref: Annotated[
        SecretRef | None,
        Field(
            description=(
                "Secret with keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and ca.crt where the endpoint has a "
                "certificate authority of its own. Without it: the pod's own identity. Locally: the environment and "
                "~/.aws, as for every AWS tool."
            )
        ),
    ] = None


class Retries(ApiModel):
    """How often a failed attempt is followed by another. Preemptions are not counted."""

    application: Annotated[int, Field(ge=0, le=100, description="After a failure of the trainer itself.")] = 1
    infrastructure: Annotated[
        int, Field(ge=0, le=100, description="After a lost node or pod, a storage or an image that is away.")
    ] = 10
