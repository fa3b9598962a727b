"""URIs and references to Kubernetes objects that several parts of the spec use."""

from typing import Annotated

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel

ModelUri = Annotated[str, StringConstraints(pattern=r"^(hf|s3|file|sample)://.+$", max_length=1024)]
DataUri = Annotated[str, StringConstraints(pattern=r"^(s3|file|sample)://.+$", max_length=1024)]
StorageUri = Annotated[str, StringConstraints(pattern=r"^(s3|file)://.+$", max_length=1024)]
ObjectName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253),
]


class SecretRef(ApiModel):
    """A Secret in the job's own namespace."""

    name: Annotated[ObjectName, Field(description="Name of a Secret in the job's namespace.")]
