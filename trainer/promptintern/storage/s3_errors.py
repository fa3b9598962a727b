"""What an S3 server's refusal, or its silence, means to the run."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from fsspec.asyn import FSTimeoutError

from promptintern.errors import CredentialsRefused, RunFailed, UserError
from promptintern.storage.retry import Transient, may_pass

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
_EXISTS = {"PreconditionFailed", "412"}
_TRANSIENT = {
    "BadDigest",  # the body was damaged on its way
    "ConditionalRequestConflict",  # two conditional writes at once
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


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A failed request."""

    error: Exception
    code: str
    """S3's error code; empty if no server answered."""
    status: int
    """HTTP status; 0 if no server answered."""
    operation: str
    bucket: str
    key: str
    endpoint: str

    @classmethod
    def of(cls, error: Exception, *, operation: str, bucket: str, key: str, endpoint: str) -> Self:
        """s3fs raises Python's own errors; botocore's, with code and status, is their cause."""
        code, status = "", 0
        for each in (error, error.__cause__):
            if isinstance(each, boto.ClientError):
                code = str(each.response.get("Error", {}).get("Code", ""))
                status = int(each.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
                break
        return cls(
            error=error, code=code, status=status, operation=operation, bucket=bucket, key=key, endpoint=endpoint
        )

    @property
    def place(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def reason(self) -> str:
        """The server's words without Python's error number."""
        return getattr(self.error, "strerror", None) or str(self.error) or type(self.error).__name__


def judge(answer: Answer) -> Exception:
    """``Transient``, ``UserError``, ``RunFailed``, ``FileExistsError``, ``FileNotFoundError``, or a defect as it is."""
    return next((becomes(answer) for applies, becomes in _RULES if applies(answer)), answer.error)


def _no_bucket(a: Answer) -> Exception:
    return UserError.at(
        a.place, f"{a.operation}: there is no such bucket at {a.endpoint}; create it or correct the URI"
    )


def _no_credentials(a: Answer) -> Exception:
    return CredentialsRefused.at(
        a.place,
        f"{a.operation}: there are no usable credentials ({a.reason}); set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws",
    )


def _wrong_credentials(a: Answer) -> Exception:
    return CredentialsRefused.at(
        a.place,
        f"{a.operation}: {a.endpoint} refused the credentials ({a.code}: {a.reason}); check AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY or the profile in use, and the clock",
    )


def _wrong_region(a: Answer) -> Exception:
    return UserError.at(
        a.place, f"{a.operation}: the bucket is in another region ({a.reason}); set spec.storage.region or .endpoint"
    )


def _no_rights(a: Answer) -> Exception:
    return UserError.at(
        f"{a.place}/{a.key}",
        f"{a.operation} was refused ({a.code or a.status}: {a.reason}); these credentials need s3:GetObject, "
        "s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket",
    )


def _transient(a: Answer) -> Exception:
    return Transient(f"{a.status} {a.code}: {a.reason}")


def _refused(a: Answer) -> Exception:
    return RunFailed(f"storage: {a.endpoint} refused {a.operation} of {a.place}/{a.key}: {a.code}: {a.reason}")


def _bad_options(a: Answer) -> Exception:
    return UserError.at(a.place, f"{a.operation}: {a.reason}; check the URI, the endpoint and the region")


# The first that applies counts.
_RULES: list[tuple[Callable[[Answer], bool], Callable[[Answer], Exception]]] = [
    (lambda a: a.code in _NO_BUCKET, _no_bucket),
    (lambda a: a.code in _EXISTS, lambda a: FileExistsError(f"{a.place}/{a.key}")),
    (lambda a: isinstance(a.error, FileNotFoundError), lambda a: FileNotFoundError(f"{a.place}/{a.key}")),
    (lambda a: isinstance(a.error, _NO_CREDENTIALS), _no_credentials),
    (lambda a: a.code in _CREDENTIALS or a.status == 401, _wrong_credentials),
    (lambda a: a.code in _WRONG_REGION, _wrong_region),
    (lambda a: a.status == 403, _no_rights),
    (lambda a: a.code in _TRANSIENT or may_pass(a.status), _transient),
    (lambda a: isinstance(a.error, _NETWORK), lambda a: Transient(a.reason)),
    (lambda a: a.status > 0, _refused),
    (lambda a: isinstance(a.error, boto.BotoCoreError | ValueError), _bad_options),
]
