"""spec.compute, spec.checkpoint, spec.storage and spec.retries: where a job runs, and how it survives failures."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Rule
from promptintern_api.placement import Affinity, LabelValue, Toleration
from promptintern_api.pods import (
    RESERVED_ANNOTATIONS,
    RESERVED_LABELS,
    AnnotationValue,
    EnvironmentVariable,
    ModelCache,
    PodLabelValue,
    Resources,
    key_rules,
)
from promptintern_api.secret_ref import ObjectName, SecretRef
from promptintern_api.uris import StorageUri


class Device(StrEnum):
    """The device that a worker computes on."""

    AUTO = "Auto"
    CPU = "CPU"
    CUDA = "CUDA"


class ComputeSpec(ApiModel):
    """The Ray cluster of a job. `promptintern run` uses only `device`, `gpusPerWorker` and its own flag `--workers`."""

    workers: Annotated[
        int,
        Field(
            ge=1,
            le=1024,
            description=(
                "Number of worker pods. The world size, which is the number of training processes, is this number "
                "times `gpusPerWorker`, or this number if the workers have no GPUs."
            ),
        ),
    ] = 1
    gpus_per_worker: Annotated[
        int,
        Field(
            ge=0,
            le=16,
            description=(
                "Number of GPUs that each worker pod requests, as the resource `gpuResource`. A pod has one training "
                "process for each GPU. If it is above 0, a worker that finds no GPU fails. It must be 0 if `device` is "
                "CPU."
            ),
        ),
    ] = 0
    gpu_resource: Annotated[
        str | None,
        StringConstraints(
            pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=317
        ),
        Field(
            description=(
                "Name of the resource that `gpusPerWorker` counts, such as nvidia.com/gpu, nvidia.com/mig-3g.40gb or "
                "amd.com/gpu. If it is left out, the chart's `pods.gpuResource` is used."
            )
        ),
    ] = None
    device: Annotated[
        Device,
        Field(
            description=(
                "Device that workers compute on. Auto uses a GPU if the worker has one, and the CPU otherwise. CPU "
                "never uses a GPU. CUDA fails at once if the worker has no GPU."
            )
        ),
    ] = Device.AUTO
    image: Annotated[
        str | None,
        StringConstraints(min_length=1, max_length=512),
        Field(
            description=(
                "Image of all pods of the job. If it is left out, each attempt uses the chart's `trainer.image` at the "
                "time when the attempt starts. The chart's `trainer.allowedImages` may limit the choice."
            )
        ),
    ] = None
    ray_version: Annotated[
        str | None,
        StringConstraints(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$"),
        Field(
            description="Version of Ray in the image. If it is left out, the chart's `trainer.rayVersion` is assumed."
        ),
    ] = None
    resources: Annotated[
        Resources,
        Field(
            description=(
                "CPU and memory of each worker pod. The chart's `podSizes.worker` sets the values that are left out."
            )
        ),
    ] = Resources()
    head_resources: Annotated[
        Resources,
        Field(
            description=(
                "CPU and memory of the head pod, which does not train. The chart's `podSizes.head` sets the values "
                "that are left out."
            )
        ),
    ] = Resources()
    node_selector: Annotated[
        dict[str, LabelValue] | None,
        Field(
            max_length=64,
            description="Labels that a node must have to run worker pods. If it is left out, any node will do.",
        ),
    ] = None
    head_node_selector: Annotated[
        dict[str, LabelValue] | None,
        Field(
            max_length=64,
            description=(
                "Labels that a node must have to run the head pod and the check that precedes the first attempt. If it "
                "is left out, any node will do."
            ),
        ),
    ] = None
    tolerations: Annotated[
        list[Toleration] | None,
        Field(max_length=64, description="Tolerations of all pods of the job. If it is left out, they have none."),
    ] = None
    affinity: Annotated[
        Affinity | None,
        Field(description="Scheduling constraints of the worker pods. If it is left out, they have none."),
    ] = None
    priority_class_name: Annotated[
        ObjectName | None,
        Field(
            description=(
                "Name of the PriorityClass of all pods of the job. If it is left out, the cluster's default applies."
            )
        ),
    ] = None
    runtime_class_name: Annotated[
        ObjectName | None,
        Field(
            description=(
                "Name of the RuntimeClass of the worker pods, such as nvidia. If it is left out, the chart's "
                "`pods.gpuRuntimeClassName` or `pods.runtimeClassName` applies."
            )
        ),
    ] = None
    scheduler_name: Annotated[
        ObjectName | None,
        Field(
            description=(
                "Name of the scheduler of the head and the worker pods, such as volcano. If it is left out, the "
                "chart's `pods.schedulerName` or the cluster's default applies."
            )
        ),
    ] = None
    pod_labels: Annotated[
        dict[str, PodLabelValue] | None,
        Field(
            max_length=32,
            description=(
                "Additional labels of all pods of the job, such as sidecar.istio.io/inject. They take precedence over "
                "the chart's `pods.labels`. If it is left out, there are none."
            ),
        ),
    ] = None
    pod_annotations: Annotated[
        dict[str, AnnotationValue] | None,
        Field(
            max_length=32,
            description=(
                "Additional annotations of all pods of the job, such as kueue.x-k8s.io/podset-required-topology. They "
                "take precedence over the chart's `pods.annotations`. If it is left out, there are none."
            ),
        ),
    ] = None
    env: Annotated[
        list[EnvironmentVariable] | None,
        Field(
            max_length=32,
            description=(
                "Environment variables of all containers of the job: proxies, the endpoint of the model hub, and "
                "settings of NCCL. They take precedence over the chart's `pods.env`. If it is left out, there are none."
            ),
        ),
    ] = None
    image_pull_secrets: Annotated[
        list[SecretRef] | None,
        Field(
            max_length=16,
            description=(
                "Secrets in the job's namespace with credentials for the registry of `image`. If it is left out, the "
                "image is pulled without credentials."
            ),
        ),
    ] = None
    service_account_annotations: Annotated[
        dict[str, Annotated[str, StringConstraints(max_length=4096)]] | None,
        Field(
            max_length=16,
            description=(
                "Annotations of the job's ServiceAccount, promptintern-NAME, through which a cloud provider assigns an "
                "identity to the pods. The author of the job must be allowed to create ServiceAccounts. If it is left "
                "out, the ServiceAccount has no such annotations."
            ),
        ),
    ] = None
    model_cache: Annotated[
        ModelCache | None,
        Field(
            description=(
                "Volume with base models that the pods share. If it is left out, each pod downloads the base model to "
                "its scratch space."
            )
        ),
    ] = None
    termination_grace_period_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=86_400,
            description=(
                "Seconds that a pod has to save its work before it is killed in a planned stop, such as a suspension, "
                "a preemption or a node drain."
            ),
        ),
    ] = 120

    rules: ClassVar[tuple[Rule, ...]] = (
        *key_rules("podLabels", "pod_labels", reserved=RESERVED_LABELS),
        *key_rules("podAnnotations", "pod_annotations", reserved=RESERVED_ANNOTATIONS),
        Rule(
            field="env",
            message="must not name a variable twice",
            cel="!has(self.env) || self.env.all(v, self.env.exists_one(w, w.name == v.name))",
            holds=lambda self: len({v.name for v in self.env or ()}) == len(self.env or ()),
        ),
    )


class CheckpointSpec(ApiModel):
    """The checkpoints within a stage, which limit how much work is lost in a hard kill."""

    every_seconds: Annotated[
        int,
        Field(
            ge=1,
            le=86_400,
            description=(
                "Seconds between two checkpoints within a stage. A hard kill loses at most the work of this time. In a "
                "planned stop, the trainer saves first, so that no step is lost."
            ),
        ),
    ] = 300
    keep: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description=(
                "Number of checkpoints of the running stage that are kept. All are deleted once the stage is committed."
            ),
        ),
    ] = 2


class AddressingStyle(StrEnum):
    """Where the name of a bucket is in the URL of a request."""

    PATH = "Path"
    VIRTUAL = "Virtual"


class ServerSideEncryption(StrEnum):
    """The encryption that a request to store an object asks for."""

    AES256 = "AES256"
    KMS = "KMS"


class StorageSpec(ApiModel):
    """The storage for adapters, reports, logs and checkpoints."""

    uri: Annotated[
        StorageUri,
        Field(
            description=(
                "URI of the storage: s3://BUCKET/PREFIX or file:///PATH. The run writes to the folder "
                "NAMESPACE/NAME-ID below this URI. In a cluster, a file:// URI must point below "
                "`compute.modelCache.mountPath`."
            )
        ),
    ]
    endpoint: Annotated[
        str | None,
        StringConstraints(pattern=r"^https?://.+$", max_length=1024),
        Field(description="URL of the S3 server, with http:// or https://. If it is left out, AWS is used."),
    ] = None
    region: Annotated[
        str | None,
        StringConstraints(max_length=64),
        Field(description="Region of the S3 bucket. If it is left out, the AWS configuration of the pod decides."),
    ] = None
    addressing_style: Annotated[
        AddressingStyle | None,
        Field(
            description=(
                "Where the name of the bucket is in the URL of a request. Path: http://SERVER/BUCKET/KEY. Virtual: "
                "http://BUCKET.SERVER/KEY, which some servers require. If it is left out, botocore decides: Virtual "
                "for AWS, and Path for other servers."
            )
        ),
    ] = None
    server_side_encryption: Annotated[
        ServerSideEncryption | None,
        Field(
            description=(
                "Encryption that every request to store an object asks for, which the policies of some buckets "
                "require: AES256, or KMS with the key `kmsKeyId`. If it is left out, the bucket decides."
            )
        ),
    ] = None
    kms_key_id: Annotated[
        str | None,
        StringConstraints(min_length=1, max_length=2048),
        Field(
            description=(
                "Id or ARN of the key in the key management service. If it is left out with KMS, the bucket's default "
                "key is used."
            )
        ),
    ] = None
    secret_ref: Annotated[
        SecretRef | None,
        Field(
            description=(
                "Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Two more keys are optional: "
                "AWS_SESSION_TOKEN, and ca.crt with the CA certificate of the endpoint. If `secretRef` is left out, "
                "the pod's own identity is used. `promptintern run` does not read the Secret; it uses the environment "
                "and ~/.aws, as every AWS tool does."
            )
        ),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="kmsKeyId",
            message="needs serverSideEncryption: KMS",
            cel="!has(self.kmsKeyId) || (has(self.serverSideEncryption) && self.serverSideEncryption == 'KMS')",
            holds=lambda self: self.kms_key_id is None or self.server_side_encryption is ServerSideEncryption.KMS,
        ),
    )


class Retries(ApiModel):
    """The limits on the attempts that follow a failure. Suspensions, and waiting in a queue, are not counted."""

    application: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description=(
                "Maximum number of further attempts after failures of the trainer, such as a lack of memory. 0 means "
                "that the first such failure ends the job."
            ),
        ),
    ] = 1
    infrastructure: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description=(
                "Maximum number of further attempts after a node, a pod, the storage or an image was lost or "
                "unavailable. The check before the first attempt may also be repeated this many times if it is lost. 0 "
                "means that the first such failure ends the job."
            ),
        ),
    ] = 10
    preemption: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description=(
                "Maximum number of attempts in a row that the cluster may end, as by a preemption, an eviction or a "
                "node drain, before the trainer has run for `checkpoint.everySeconds`. An attempt that ran for longer "
                "has saved some of its work, and begins the count again. 0 means that the first such attempt ends the "
                "job."
            ),
        ),
    ] = 20
