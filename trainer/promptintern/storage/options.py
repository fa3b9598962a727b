"""Options for reaching an S3 server. Credentials are not among them; botocore finds those itself."""

from dataclasses import dataclass
from typing import Self

from promptintern_api.compute import StorageSpec


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """Endpoint and region; credentials come from the environment, ~/.aws or the pod's identity, never from a job."""

    endpoint: str | None = None
    region: str | None = None

    @classmethod
    def of(cls, storage: StorageSpec | None) -> Self:
        """Return the options of ``spec.storage``."""
        return cls(endpoint=storage.endpoint, region=storage.region) if storage else cls()
