"""The options for reaching an S3 server. Credentials are not among them, because botocore finds them itself."""

from dataclasses import dataclass
from typing import Self

from promptintern_api.compute import StorageSpec


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """The endpoint and region of an S3 server. Credentials come from the environment, ~/.aws or the pod's identity.

    A job contains no credentials.
    """

    endpoint: str | None = None
    region: str | None = None

    @classmethod
    def of(cls, storage: StorageSpec | None) -> Self:
        """Return the options in ``storage``, which is the ``spec.storage`` of a job."""
        return cls(endpoint=storage.endpoint, region=storage.region) if storage else cls()
