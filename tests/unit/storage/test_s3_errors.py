"""The meaning of each response of an S3 server."""

from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from promptintern.errors import CredentialsRefused, InfrastructureFailed, RunFailed, UserError
from promptintern.storage.options import S3Options
from promptintern.storage.retry import RetryPolicy, Transient
from promptintern.storage.s3 import S3Backend
from promptintern.storage.s3_errors import FailedRequest, NotSupported, classify_error
from promptintern_api.compute import AddressingStyle, ServerSideEncryption
from s3fs.errors import translate_boto_error


def _answer(error: Exception) -> FailedRequest:
    return FailedRequest.of(error, operation="PutObject", bucket="team-a", key="runs/x", endpoint="s3.example")


def _client_error(code: str, status: int) -> Exception:
    response = {
        "Error": {"Code": code, "Message": "from the server"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    error: Exception = translate_boto_error(ClientError(response, "PutObject"))
    return error


@pytest.mark.parametrize(
    ("code", "status", "meaning", "words"),
    [
        ("NoSuchBucket", 404, UserError, ["s3://team-a", "PutObject", "no such bucket", "create it"]),
        ("InvalidAccessKeyId", 403, CredentialsRefused, ["s3://team-a", "PutObject", "refused the credentials"]),
        ("SignatureDoesNotMatch", 403, CredentialsRefused, ["s3.example", "refused the credentials"]),
        ("ExpiredToken", 400, CredentialsRefused, ["refused the credentials"]),
        ("AccessDenied", 403, UserError, ["s3://team-a/runs/x", "s3:PutObject", "s3:ListBucket"]),
        ("403", 403, UserError, ["s3:GetObject"]),
        ("PermanentRedirect", 301, UserError, ["another region"]),
        ("NoSuchKey", 404, FileNotFoundError, ["s3://team-a/runs/x"]),
        ("404", 404, FileNotFoundError, ["s3://team-a/runs/x"]),
        ("PreconditionFailed", 412, FileExistsError, ["s3://team-a/runs/x"]),
        ("412", 412, FileExistsError, ["s3://team-a/runs/x"]),
        ("InternalError", 500, Transient, ["500", "from the server"]),
        ("SlowDown", 503, Transient, ["503"]),
        ("BadGateway", 502, Transient, ["502"]),
        ("TooManyRequests", 429, Transient, ["429"]),
        ("RequestTimeout", 400, Transient, ["from the server"]),
        ("BadDigest", 400, Transient, []),
        ("IncompleteBody", 400, Transient, []),
        ("ConditionalRequestConflict", 409, Transient, []),
        ("NotImplemented", 501, NotSupported, ["does not support PutObject"]),
        ("HTTPVersionNotSupported", 505, RunFailed, ["s3.example"]),
        ("MissingContentMD5", 400, NotSupported, ["Content-MD5"]),
        ("SecondLevelDomainForbidden", 403, UserError, ["spec.storage.addressingStyle: Virtual"]),
        ("KMS.NotFoundException", 400, UserError, ["spec.storage.kmsKeyId"]),
        ("EntityTooLarge", 400, RunFailed, ["s3.example", "PutObject", "s3://team-a/runs/x", "EntityTooLarge"]),
    ],
)
def test_codes(code: str, status: int, meaning: type[Exception], words: list[str]) -> None:
    verdict = classify_error(_answer(_client_error(code, status)))
    assert type(verdict) is meaning
    assert all(word in str(verdict) for word in words)


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://s3.example"),
        ReadTimeoutError(endpoint_url="http://s3.example"),
        TimeoutError(),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
)
def test_silence_may_pass(error: Exception) -> None:
    assert type(classify_error(_answer(error))) is Transient
    assert str(classify_error(_answer(error)))


def test_no_credentials() -> None:
    verdict = classify_error(_answer(NoCredentialsError()))
    assert isinstance(verdict, UserError)
    assert "AWS_ACCESS_KEY_ID" in str(verdict)


def test_a_defect_stays_what_it_is() -> None:
    defect = AttributeError("ours")
    assert classify_error(_answer(defect)) is defect


@pytest.mark.parametrize(("code", "meaning"), [("AccessDenied", UserError), ("InternalError", InfrastructureFailed)])
def test_what_a_deletion_says_of_each_key(code: str, meaning: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """The status of S3's response is 200."""
    backend = S3Backend("team-a", S3Options(endpoint="http://127.0.0.1:9"), RetryPolicy(deadline=0.1, longest_wait=0.1))
    errors = [{"Key": "runs/x", "Code": code, "Message": "from the server"}]
    monkeypatch.setattr(backend, "sizes", lambda _: {})
    monkeypatch.setattr(backend._files, "call_s3", lambda *_, **__: {"Errors": errors})
    with pytest.raises(meaning) as raised:
        backend.delete("runs/x")
    assert type(raised.value) is meaning
    assert all(word in str(raised.value) for word in ("DeleteObjects", "runs/x", "from the server"))


@pytest.mark.parametrize(
    ("style", "endpoint", "host"),
    [
        (None, "https://s3.example", "s3.example"),
        (AddressingStyle.PATH, "https://s3.example", "s3.example"),
        (AddressingStyle.VIRTUAL, "https://s3.example", "team-a.s3.example"),
        (None, None, "team-a.s3.amazonaws.com"),
    ],
)
def test_the_bucket_is_where_the_job_wants_it(
    style: AddressingStyle | None, endpoint: str | None, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    options = S3Options(endpoint=endpoint, region="us-east-1", addressing_style=style)
    files = S3Backend("team-a", options, RetryPolicy())._files
    url = files.url("team-a/a/b.json")
    assert urlsplit(url).hostname == host
    assert urlsplit(url).path == ("/a/b.json" if host.startswith("team-a") else "/team-a/a/b.json")


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (S3Options(), {}),
        (S3Options(encryption=ServerSideEncryption.AES256), {"ServerSideEncryption": "AES256"}),
        (S3Options(encryption=ServerSideEncryption.KMS), {"ServerSideEncryption": "aws:kms"}),
        (
            S3Options(encryption=ServerSideEncryption.KMS, kms_key_id="k"),
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k"},
        ),
    ],
)
def test_the_encryption_that_a_request_asks_for(options: S3Options, arguments: dict[str, str]) -> None:
    assert options.encryption_arguments == arguments
