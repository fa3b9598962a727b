"""S3 servers that lack something: each quirk in front of a real server, and what a run does there.

docs/storage.md has the table of these quirks.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from promptintern.errors import RunFailed, UserError
from promptintern.storage.options import S3Options
from promptintern.storage.retry import RetryPolicy
from promptintern.storage.run import RunStore
from promptintern.storage.s3 import PART_BYTES
from promptintern.storage.s3_errors import NotSupported
from promptintern.storage.store import Store, open_store
from promptintern_api.compute import ServerSideEncryption
from structlog.testing import capture_logs

from tests.cluster.faultproxy import Fail, Fault, FaultProxy, Request, Swallow
from tests.cluster.s3 import S3Server

PATIENT = RetryPolicy(deadline=60)
"""A quirk is no outage, so nothing here may wait for this deadline."""
WHO = {"host": "node-1", "pid": "42"}


class Quirky:
    """A server with a quirk, and the requests that it got."""

    def __init__(self, server: S3Server, quirk: Callable[[Request], Fault | None]) -> None:
        self.requests: list[Request] = []
        self.proxy = FaultProxy(server.url, self._decide)
        self._quirk = quirk

    def _decide(self, request: Request) -> Fault | None:
        self.requests.append(request)
        return self._quirk(request)

    def store(self, bucket: str, **options: object) -> Store:
        s3 = S3Options(endpoint=self.proxy.url, **options)  # type: ignore[arg-type]
        return open_store(f"s3://{bucket}/run", s3=s3, policy=PATIENT)

    def count(self, method: str, part: str = "") -> int:
        """Return the number of requests with this method and with ``part`` in their target."""
        return sum(request.method == method and part in request.target for request in self.requests)


def _deletes_many(request: Request) -> bool:
    return request.method == "POST" and "delete" in request.target


def work(store: Store, folder: Path) -> None:
    """Do what a run does with its storage, and check that nothing is left behind."""
    run = RunStore(store)
    run.probe()
    term = run.claim_term(WHO)
    (folder / "large.bin").write_bytes(b"x" * (2 * PART_BYTES + 1))
    (folder / "small.json").write_text("{}")
    run.commit_stage("0", term=term, local=folder, parent=None, meta={"rate": 0.5})
    assert run.stage_manifest("0") is not None
    store.delete("stages")
    assert store.list("stages") == []


@pytest.mark.parametrize(
    "answer",
    [
        Fail(status=400, code="MissingContentMD5", message="Missing required header for this request: Content-Md5."),
        Fail(status=501, code="NotImplemented", message="not implemented"),
        Fail(status=405, code="MethodNotAllowed", message="not allowed"),
    ],
    ids=lambda answer: answer.code,
)
def test_a_server_that_removes_objects_only_one_by_one(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path, answer: Fail
) -> None:
    def lacks(request: Request) -> Fault | None:
        is_fine = answer.code == "MissingContentMD5" and "content-md5" in request.headers
        return answer if _deletes_many(request) and not is_fine else None

    server = Quirky(s3_server, lacks)
    with server.proxy, capture_logs() as logs:
        work(server.store(s3_bucket), tmp_path)
    assert server.count("POST", "delete") == 1, "the server is asked once"
    assert server.count("DELETE") >= 3
    assert [entry["event"] for entry in logs] == ["storage: objects are removed one by one"]


def test_uploads_carry_no_checksums_that_old_servers_do_not_know(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    server = Quirky(s3_server, lambda _request: None)
    with server.proxy:
        work(server.store(s3_bucket), tmp_path)
    uploads = [request for request in server.requests if request.method == "PUT"]
    assert len(uploads) >= 5
    for request in uploads:
        names = " ".join(request.headers)
        assert "x-amz-trailer" not in names and "x-amz-checksum" not in names and "x-amz-sdk-checksum" not in names
        assert "aws-chunked" not in request.headers.get("content-encoding", "")
        assert "content-length" in request.headers


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (405, "MethodNotAllowed")])
def test_a_server_without_conditional_writes_is_refused_at_once(
    s3_server: S3Server, s3_bucket: str, status: int, code: str
) -> None:
    server = Quirky(s3_server, lambda request: Fail(status=status, code=code) if request.exclusive else None)
    with server.proxy, pytest.raises(UserError) as refused:
        RunStore(server.store(s3_bucket)).probe()
    assert "If-None-Match" in str(refused.value)
    assert server.count("PUT") == 1


def test_a_server_that_ignores_conditions_is_refused(s3_server: S3Server, s3_bucket: str) -> None:
    """The server reports success to every conditional write."""
    created: list[str] = []

    def ignore(request: Request) -> Fault | None:
        if not request.exclusive:
            return None
        created.append(request.target)
        return Swallow() if len(created) > 1 else None

    server = Quirky(s3_server, ignore)
    with server.proxy, pytest.raises(UserError, match=r"ignores exclusive creation \(If-None-Match"):
        RunStore(server.store(s3_bucket)).probe()
    assert len(created) == 2


def _unencrypted(request: Request) -> Fault | None:
    stores = request.method == "PUT" and "partNumber" not in request.target
    begins = request.method == "POST" and "uploads" in request.target
    if (stores or begins) and "x-amz-server-side-encryption" not in request.headers:
        return Fail(status=403, code="AccessDenied", message="explicit deny in a resource-based policy")
    return None


def test_a_bucket_that_requires_encryption_is_settled_by_a_field(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    server = Quirky(s3_server, _unencrypted)
    with server.proxy:
        with pytest.raises(UserError, match=r"set spec\.storage\.serverSideEncryption"):
            RunStore(server.store(s3_bucket)).probe()
        work(server.store(s3_bucket, encryption=ServerSideEncryption.AES256), tmp_path)
    asked = {request.headers.get("x-amz-server-side-encryption") for request in server.requests}
    assert asked == {None, "AES256"}


def test_the_key_of_the_encryption_is_sent(s3_server: S3Server, s3_bucket: str) -> None:
    server = Quirky(s3_server, lambda _request: None)
    with server.proxy:
        store = server.store(s3_bucket, encryption=ServerSideEncryption.KMS, kms_key_id="key-7")
        store.write("a", b"x")
    (upload,) = [request for request in server.requests if request.method == "PUT"]
    assert upload.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert upload.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-7"


def test_a_server_that_wants_virtual_hosts_is_settled_by_a_field(s3_server: S3Server, s3_bucket: str) -> None:
    answer = Fail(status=403, code="SecondLevelDomainForbidden", message="Please use virtual hosted style to access.")
    server = Quirky(s3_server, lambda _request: answer)
    with server.proxy, pytest.raises(UserError, match=r"set spec\.storage\.addressingStyle: Virtual") as refused:
        RunStore(server.store(s3_bucket)).probe()
    assert "s3:GetObject" not in str(refused.value)


def test_an_operation_that_a_server_lacks_is_no_outage(s3_server: S3Server, s3_bucket: str) -> None:
    server = Quirky(
        s3_server, lambda request: Fail(status=501, code="NotImplemented") if request.method == "GET" else None
    )
    with server.proxy, pytest.raises(NotSupported, match="does not support ListObjectsV2") as refused:
        server.store(s3_bucket).list("x")
    assert isinstance(refused.value, RunFailed)
    assert len(server.requests) == 1
