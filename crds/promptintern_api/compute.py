"""spec.compute, spec.checkpoint, spec.storage and spec.retries: where a job runs, and how it survives failures."""

import re
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Rule
from promptintern_api.placement import Affinity, LabelValue, Toleration
from promptintern_api.secret_ref import ObjectName, SecretRef
from promptintern_api.uris import StorageUri

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$", max_length=32)]


class Device(StrEnum):
    """The device that a worker computes on."""

    AUTO = "Auto"
    CPU = "CPU"
    CUDA = "CUDA"


class Resources(ApiModel):
    """The CPU and the memory of one pod."""

    cpu: Annotated[
        Quantity | None,
        Field(
            description=(
                "CPU cores that the container requests, such as `4` or `500m`. The container may use more when the "
                "node has cores to spare. If it is left out, the chart's `podSizes` sets it."
            )
        ),
    ] = None
    memory: Annotated[
        Quantity | None,
        Field(
            description=(
                "Memory that the container requests and is limited to, such as `32Gi`. If it is left out, the chart's "
                "`podSizes` sets it."
            )
        ),
    ] = None


_SYSTEM = "bin|boot|dev|etc|home|lib|lib32|lib64|libx32|opt|proc|root|run|sbin|sys|tmp|usr|var"
_NOT_A_MOUNT_PATH = rf"^/*$|(^|/)\.\.?(/|$)|//|^/({_SYSTEM})(/|$)"
"""The paths at which a volume would replace files of the image, which may be the only image that the chart allows."""


class ModelCache(ApiModel):
    """A volume with base models, so that the pods of a job need not download them."""

    claim_name: Annotated[
        ObjectName,
        Field(
            description=(
                "Name of a PersistentVolumeClaim in the job's namespace. It must be ReadWriteMany if the pods run on "
                "several nodes."
            )
        ),
    ]
    mount_path: Annotated[
        str,
        StringConstraints(pattern=r"^/[A-Za-z0-9._/-]+$", max_length=256),
        Field(
            description=(
                "Path at which all pods of the job mount the volume. Models from a hub are cached in the volume's "
                "folder `hub`. It may not be in a folder that the image uses, such as /usr or /opt."
            )
        ),
    ] = "/models"
    read_only: Annotated[
        bool,
        Field(
            description=(
                "Whether the volume is mounted for reading only. A read-only volume provides models at file:// URIs "
                "below `mountPath`, but does not cache models from a hub."
            )
        ),
    ] = False

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="mountPath",
            message=(
                "must be a plain path outside the folders of the image, such as /models or /mnt/models, because a "
                "volume there would replace the image's own files"
            ),
            cel=f"!has(self.mountPath) || !self.mountPath.matches('{_NOT_A_MOUNT_PATH}')".replace("\\", "\\\\"),
            holds=lambda self: re.search(_NOT_A_MOUNT_PATH, self.mount_path) is None,
        ),
    )


class ComputeSpec(ApiModel):
    """The Ray cluster of a job. `promptintern run` uses only `device`, `gpusPerWorker` and its own flag `--workers`."""

    workers: Annotated[
        int,
        Field(
            ge=1,
            le=1024,
            description="Number of training workers (the world size). Each worker runs in a pod of its own.",
        ),
    ] = 1
    gpus_per_worker: Annotated[
        int,
        Field(
            ge=0,
            le=16,
            description=(
                "Number of GPUs that each worker pod requests (nvidia.com/gpu). A worker trains on one GPU, so add "
                "workers to use more GPUs. If it is above 0, a worker that finds no GPU fails. It must be 0 if "
                "`device` is CPU."
            ),
        ),
    ] = 0
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
                "Maximum number of attempts in a row that the cluster may end before they got further than all earlier "
                "attempts, as by a preemption, an eviction or a node drain. An attempt that took more steps of "
                "training begins the count again, so a job that makes progress may be preempted any number of times. "
                "0 means that the first such attempt ends the job."
            ),
        ),
    ] = 20
