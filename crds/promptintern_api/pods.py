"""The fields of spec.compute that become parts of the pods: resources, volumes, environment, labels and annotations."""

import re
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Rule
from promptintern_api.secret_ref import ObjectName

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$", max_length=32)]


_KEY = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_KEY_CHARACTERS = 317
PodLabelValue = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)
]
AnnotationValue = Annotated[str, StringConstraints(max_length=4096)]

RESERVED_ANNOTATIONS = ("promptintern.dev/", "ray.io/")
RESERVED_LABELS = (
    *RESERVED_ANNOTATIONS,
    *("app.kubernetes.io/", "batch.kubernetes.io/", "kueue.x-k8s.io/", "controller-uid", "job-name"),
)


def key_rules(field: str, name: str, *, reserved: tuple[str, ...]) -> tuple[Rule, Rule]:
    """Return the rules that the keys of a map are keys of labels or annotations, and none begins as a reserved one.

    Args:
        field: The name of the map on the wire.
        name: The name of the map in Python.
        reserved: The beginnings of the keys that only the operator, KubeRay, Kueue and Kubernetes set.
    """
    is_key = f"key.size() <= {_KEY_CHARACTERS} && key.matches('{_KEY}')"
    unreserved = " && ".join(f"!key.startsWith('{beginning}')" for beginning in reserved)
    return (
        Rule(
            field=field,
            message="must have keys of the form NAME or DOMAIN/NAME, with a NAME of at most 63 characters",
            cel=f"!has(self.{field}) || self.{field}.all(key, {is_key})",
            holds=lambda self: all(
                len(key) <= _KEY_CHARACTERS and re.fullmatch(_KEY, key) for key in getattr(self, name) or ()
            ),
        ),
        Rule(
            field=field,
            message=f"must not have keys that begin with {', '.join(reserved[:-1])} or {reserved[-1]}",
            cel=f"!has(self.{field}) || self.{field}.all(key, {unreserved})",
            holds=lambda self: not any(key.startswith(reserved) for key in getattr(self, name) or ()),
        ),
    )


class EnvironmentVariable(ApiModel):
    """An environment variable of all containers of a job."""

    name: Annotated[
        str,
        StringConstraints(
            pattern=(
                r"^((HTTP|HTTPS|ALL|NO)_PROXY|(http|https|all|no)_proxy|HF_ENDPOINT|HF_HUB_[A-Z0-9_]+|"
                r"(TORCH_)?NCCL_[A-Z0-9_]+|GLOO_SOCKET_IFNAME|PYTORCH_(CUDA_)?ALLOC_CONF)$"
            ),
            max_length=128,
        ),
        Field(
            description=(
                "Name of the variable: a proxy (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, or the same in lower "
                "case), HF_ENDPOINT, HF_HUB_..., NCCL_..., TORCH_NCCL_..., GLOO_SOCKET_IFNAME or "
                "PYTORCH_CUDA_ALLOC_CONF. The chart's `pods.env` may set others."
            )
        ),
    ]
    value: Annotated[
        str,
        StringConstraints(max_length=4096),
        Field(description="Value of the variable, which is taken literally. It is no place for a password."),
    ]

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="name",
            message="must not name a variable of NCCL that loads a library or names a file",
            cel="!self.name.matches('NCCL_.*(PLUGIN|FILE|LIB)')",
            holds=lambda self: re.search("NCCL_.*(PLUGIN|FILE|LIB)", self.name) is None,
        ),
    )


class Resources(ApiModel):
    """The CPU, the memory and the scratch space of one pod."""

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
    ephemeral_storage: Annotated[
        Quantity | None,
        Field(
            description=(
                "Scratch space on the node that the container requests and is limited to, such as `20Gi`. Base models "
                "and data are downloaded there unless `compute.modelCache` keeps them. If it is left out, the chart's "
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
