"""Classification of failed S3 requests: who has to act, and whether a retry may succeed."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from fsspec.asyn import FSTimeoutError

from promptintern.advice import check_credentials, set_credentials
from promptintern.errors import CredentialsRefused, RunFailed, UserError
from promptintern.storage.retry import Transient, is_transient_status

_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName"}
_CREDENTIALS = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "XAdminUserNotFound",  # versitygw's InvalidAccessKeyId
}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_ONLY_VIRTUAL = {"SecondLevelDomainForbidden", "PathStyleNotSupported", "VirtualHostDomainRequired"}
"""The answers of servers that want the bucket's name in the name of the host; the first one is OSS's."""
_ENCRYPTION = {"KMS.DisabledException", "KMS.NotFoundException", "KMS.KMSInvalidStateException", "KMSKeyNotFound"}
_NOT_SUPPORTED = {
    *("NotImplemented", "MethodNotAllowed", "501", "405"),
    *("MissingContentMD5", "MissingContentLength", "InvalidContentMD5"),
}
"""The answers of servers that lack an operation or a way to call it."""
_STORES = {"PutObject", "CreateMultipartUpload"}
_EXISTS = {"PreconditionFailed", "412"}
_TRANSIENT = {
    "BadDigest",  # the body was damaged in transit
    "ConditionalRequestConflict",  # two conditional writes at the same time
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
)
_NETWORK = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ChecksumError,
    boto.FlexibleChecksumError,
    ResponseParserError,
    FSTimeoutError,
    aiohttp.ClientError,
    asyncio.TimeoutError,
    ConnectionError,
    TimeoutError,
)


class NotSupported(RunFailed):
    """Raised if the server lacks an operation. The caller may have another way."""


@dataclass(frozen=True, kw_only=True)
class FailedRequest:
    """A failed request to an S3 server."""

    error: Exception
    code: str
    """The S3 error code, or an empty string if no server responded."""
    status: int
    """The HTTP status, or 0 if no server responded."""
    operation: str
    bucket: str
    key: str
    endpoint: str
    is_conditional: bool = False
    """Whether the request was to create an object only if it does not exist."""

    @classmethod
    def of(
        cls, error: Exception, *, operation: str, bucket: str, key: str, endpoint: str, is_conditional: bool = False
    ) -> Self:
        """Return the request that failed with ``error``; the code and status may be in its cause, which s3fs wraps."""
        code, status = "", 0
        for exception in (error, error.__cause__):
            if isinstance(exception, boto.ClientError):
                code = str(exception.response.get("Error", {}).get("Code", ""))
                status = int(exception.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
                break
        return cls(
            error=error,
            code=code,
            status=status,
            operation=operation,
            bucket=bucket,
            key=key,
            endpoint=endpoint,
            is_conditional=is_conditional,
        )

    @property
    def bucket_uri(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def reason(self) -> str:
        """The error message of the server or client, without Python's error number."""
        return getattr(self.error, "strerror", None) or str(self.error) or type(self.error).__name__


def classify_error(request: FailedRequest) -> Exception:
    """Return the exception to raise for ``request``, which is the original error if no rule applies.

    Otherwise, it is a Transient, UserError, RunFailed, FileExistsError or FileNotFoundError.
    """
    return next((becomes(request) for applies, becomes in _RULES if applies(request)), request.error)


def _no_bucket(r: FailedRequest) -> Exception:
    return UserError.at(
        r.bucket_uri,
        f"{r.operation}: there is no such bucket at {r.endpoint}; create it or correct the URI",
    )


def _no_credentials(r: FailedRequest) -> Exception:
    return CredentialsRefused.at(
        r.bucket_uri,
        f"{r.operation}: there are no usable credentials ({r.reason}); {set_credentials()}",
    )


def _wrong_credentials(r: FailedRequest) -> Exception:
    return CredentialsRefused.at(
        r.bucket_uri,
        f"{r.operation}: {r.endpoint} refused the credentials ({r.code}: {r.reason}); {check_credentials()}",
    )


def _wrong_region(r: FailedRequest) -> Exception:
    return UserError.at(
        r.bucket_uri,
        f"{r.operation}: the bucket is in another region ({r.reason}); set spec.storage.region or "
        "spec.storage.endpoint",
    )


def _no_rights(r: FailedRequest) -> Exception:
    return UserError.at(
        f"{r.bucket_uri}/{r.key}",
        f"{r.operation} was refused ({r.code or r.status}: {r.reason}); these credentials need s3:GetObject, "
        "s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket",
    )


def _only_virtual(r: FailedRequest) -> Exception:
    return UserError.at(
        r.bucket_uri,
        f"{r.operation}: {r.endpoint} refuses requests with the bucket in the path ({r.code}: {r.reason}); set "
        "spec.storage.addressingStyle: Virtual, so that the bucket is in the name of the host (virtual-host style)",
    )


def _bad_key(r: FailedRequest) -> Exception:
    return UserError.at(
        "spec.storage.kmsKeyId", f"the key for the encryption of {r.bucket_uri} cannot be used ({r.code}: {r.reason})"
    )


def _no_right_to_store(r: FailedRequest) -> Exception:
    return UserError.at(
        f"{r.bucket_uri}/{r.key}",
        f"{r.operation} was refused ({r.code or r.status}: {r.reason}); these credentials need s3:PutObject on the "
        "bucket, besides s3:GetObject, s3:DeleteObject and s3:ListBucket. If they have it, the bucket's policy may "
        "require an encryption header: set spec.storage.serverSideEncryption (and kmsKeyId for KMS)",
    )


def _no_conditions(r: FailedRequest) -> Exception:
    return UserError.at(
        r.bucket_uri,
        f"{r.endpoint} does not implement conditional writes (If-None-Match: *; {r.code or r.status}: {r.reason}). "
        "Without them, two drivers could overwrite each other's files; use a server that implements them",
    )


def _not_supported(r: FailedRequest) -> Exception:
    wants = ", because it wants a header Content-MD5" if "ContentMD5" in r.code else ""
    return NotSupported(
        f"storage: {r.endpoint} does not support {r.operation} as it was called{wants} ({r.code or r.status}: "
        f"{r.reason}), at {r.bucket_uri}/{r.key}"
    )


def _transient(r: FailedRequest) -> Exception:
    return Transient(f"{r.status} {r.code}: {r.reason}")


def _refused(r: FailedRequest) -> Exception:
    return RunFailed(f"storage: {r.endpoint} refused {r.operation} of {r.bucket_uri}/{r.key}: {r.code}: {r.reason}")


def _bad_options(r: FailedRequest) -> Exception:
    return UserError.at(r.bucket_uri, f"{r.operation}: {r.reason}; check the URI, the endpoint and the region")


# The first rule that applies decides.
_RULES: list[tuple[Callable[[FailedRequest], bool], Callable[[FailedRequest], Exception]]] = [
    (lambda r: r.code in _NO_BUCKET, _no_bucket),
    (lambda r: r.code in _EXISTS, lambda r: FileExistsError(f"{r.bucket_uri}/{r.key}")),
    (
        lambda r: isinstance(r.error, FileNotFoundError),
        lambda r: FileNotFoundError(f"{r.bucket_uri}/{r.key}"),
    ),
    (lambda r: isinstance(r.error, _NO_CREDENTIALS), _no_credentials),
    (lambda r: r.code in _CREDENTIALS or r.status == 401, _wrong_credentials),
    (lambda r: r.code in _WRONG_REGION, _wrong_region),
    (lambda r: r.code in _ONLY_VIRTUAL, _only_virtual),
    (lambda r: r.code in _ENCRYPTION, _bad_key),
    (lambda r: r.status == 403 and r.operation in _STORES, _no_right_to_store),
    (lambda r: r.status == 403, _no_rights),
    (lambda r: r.is_conditional and (r.code in _NOT_SUPPORTED or r.status == 501), _no_conditions),
    (lambda r: r.code in _NOT_SUPPORTED or r.status == 501, _not_supported),
    (lambda r: r.code in _TRANSIENT or is_transient_status(r.status), _transient),
    (lambda r: isinstance(r.error, _NETWORK), lambda r: Transient(r.reason)),
    (lambda r: r.status > 0, _refused),
    (lambda r: isinstance(r.error, boto.BotoCoreError | ValueError), _bad_options),
]
