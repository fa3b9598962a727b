"""The options for reaching an S3 server. Credentials are not among them, because botocore finds them itself."""

from dataclasses import dataclass
from typing import Self

from promptintern_api.compute import AddressingStyle, ServerSideEncryption, StorageSpec


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """How an S3 server is reached, and how objects are stored there.

    Credentials come from the environment, ~/.aws or the pod's identity. A job contains no credentials.
    """

    endpoint: str | None = None
    region: str | None = None
    addressing_style: AddressingStyle | None = None
    encryption: ServerSideEncryption | None = None
    kms_key_id: str | None = None

    @classmethod
    def of(cls, storage: StorageSpec | None) -> Self:
        """Return the options in ``storage``, which is the ``spec.storage`` of a job."""
        if storage is None:
            return cls()
        return cls(
            endpoint=storage.endpoint,
            region=storage.region,
            addressing_style=storage.addressing_style,
            encryption=storage.server_side_encryption,
            kms_key_id=storage.kms_key_id,
        )

    @property
    def encryption_arguments(self) -> dict[str, str]:
        """The arguments of a request that stores an object, for its encryption."""
        if self.encryption is None:
            return {}
        name = "aws:kms" if self.encryption is ServerSideEncryption.KMS else str(self.encryption)
        return {"ServerSideEncryption": name} | ({"SSEKMSKeyId": self.kms_key_id} if self.kms_key_id else {})
