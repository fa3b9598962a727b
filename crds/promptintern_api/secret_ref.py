"""The references to Kubernetes objects that several parts of the spec have in common."""

from typing import Annotated

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel

ObjectName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253),
]


class SecretRef(ApiModel):
    """A reference to a Secret in the job's namespace."""

    name: Annotated[ObjectName, Field(description="Name of a Secret in the job's namespace.")]
