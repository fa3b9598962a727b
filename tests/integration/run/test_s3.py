"""A job with a real S3 server leaves the same files as with a local folder, whatever the server and the network do."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import promptintern
from tests.cluster.faultproxy import Fail, Fault, FaultProxy, Request, ShortenUpload, every_third
from tests.cluster.s3 import S3Server
from tests.integration.run.process import adapters, finish, run_folder, run_to_end, start, write_job
from tests.integration.run.warm import WarmProcess


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the runs folder of an undisturbed local run."""
    folder = tmp_path_factory.mktemp("local")
    ended = run_to_end(write_job(folder), folder / "runs")
    assert ended.code == 0, ended.text
    return folder / "runs"


def s3_job(folder: Path, bucket: str, endpoint: str) -> Path:
    return write_job(folder, storage={"uri": f"s3://{bucket}/runs", "endpoint": endpoint})


def on_server(server: S3Server, bucket: str) -> Path:
    return server.object_path(bucket, "runs")


def files(runs: Path) -> set[str]:
    """Return the paths of a run's files, without the numbers of terms."""
    folder = run_folder(runs)
    assert folder is not None
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {
        "/".join("t" if part[0] == "t" and part[1:].isdigit() else part for part in path.parts)
        for path in paths
        if path.parts[0] != "terms"
    }


def test_the_same_files_as_a_local_run(local: Path, s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    ended = run_to_end(s3_job(tmp_path, s3_bucket, s3_server.url), None)
    assert ended.code == 0, ended.text
    runs = on_server(s3_server, s3_bucket)
    assert files(runs) == files(local)
    assert adapters(runs) == adapters(local)


def test_the_server_is_gone_for_20_seconds(local: Path, own_s3: S3Server, tmp_path: Path) -> None:
    bucket = own_s3.create_bucket()
    process = start(s3_job(tmp_path, bucket, own_s3.url), None)
    runs = on_server(own_s3, bucket)
    wait_for(process, lambda: any(runs.glob("*/*/stages/0/*/checkpoints/*/manifest.json")))
    own_s3.kill()
    time.sleep(20)
    own_s3.start()
    ended = finish(process)
    assert ended.code == 0, ended.text
    assert adapters(runs) == adapters(local)


class Unreliable:
    """Every third request fails. Of the other requests, every second upload of weights loses its second half, and its
    length is adjusted to match."""

    def __init__(self) -> None:
        self._uploads = 0

    def __call__(self, request: Request) -> Fault | None:
        failure = every_third(request)
        if failure is not None or request.method != "PUT" or ".safetensors" not in request.target:
            return failure
        self._uploads += 1
        return ShortenUpload() if self._uploads % 2 == 0 else None


def test_faults_on_the_way(local: Path, s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    with FaultProxy(s3_server.url, Unreliable()) as proxy:
        ended = run_to_end(s3_job(tmp_path, s3_bucket, proxy.url), None)
    assert ended.code == 0, ended.text
    # At least three stages and the final adapter are uploaded, and any number of checkpoints.
    assert sum(isinstance(fault, ShortenUpload) for _, fault in proxy.faults) >= 3
    assert sum(isinstance(fault, Fail) for _, fault in proxy.faults) >= 3
    assert adapters(on_server(s3_server, s3_bucket)) == adapters(local)


def test_a_server_that_stays_unavailable_is_named(own_s3: S3Server, tmp_path: Path) -> None:
    bucket = own_s3.create_bucket()
    process = start(s3_job(tmp_path, bucket, own_s3.url), None, PROMPTINTERN_STORAGE_DEADLINE_SECONDS="5")
    runs = on_server(own_s3, bucket)
    wait_for(process, lambda: any(runs.glob("*/*/stages/0/*/checkpoints/*/manifest.json")))
    own_s3.kill()
    ended = finish(process)
    assert ended.code == 1, ended.text
    last = ended.text.strip().splitlines()[-1]
    # Which operation meets the dead server first is a matter of timing: an upload, a request for an object, a listing.
    operation = r"storage: (PutObject|HeadObject|GetObject|ListObjectsV2|DeleteObjects) failed on"
    assert re.search(rf"{operation} bucket {bucket}, key runs/default/tiny-", last), last
    assert "Traceback" not in ended.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "InvalidAccessKeyId"),
    ],
)
def test_wrong_credentials_end_at_once(
    change: dict[str, str], says: str, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    ended = run_to_end(s3_job(tmp_path, s3_bucket, s3_server.url), None, **change)
    assert ended.code == 2, ended.text
    assert s3_bucket in ended.text
    assert says in ended.text or "credentials" in ended.text
    assert s3_server.secret_key not in ended.text
    assert "Traceback" not in ended.text


def test_a_missing_bucket_ends_at_once(s3_server: S3Server, tmp_path: Path) -> None:
    ended = run_to_end(s3_job(tmp_path, "no-such-bucket", s3_server.url), None)
    assert ended.code == 2, ended.text
    assert "no-such-bucket" in ended.text


@pytest.mark.parametrize(("bucket", "code"), [("no-such-bucket", 2), (None, 0)])
def test_the_check_of_a_job_tries_the_storage_and_leaves_nothing(
    bucket: str | None,
    code: int,
    s3_server: S3Server,
    s3_bucket: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, findings = s3_job(tmp_path, bucket or s3_bucket, s3_server.url), tmp_path / "findings.json"
    ran = promptintern("validate", job, "--findings", findings, capsys=capsys, monkeypatch=monkeypatch)
    assert ran.code == code, ran.err
    if bucket:
        assert f"s3://{bucket}" in findings.read_text()
    assert not [path for path in on_server(s3_server, s3_bucket).rglob("*") if path.is_file()]


def test_sigkill_and_continue_on_s3(local: Path, s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    job = s3_job(tmp_path, s3_bucket, s3_server.url)
    process = start(job, None)
    runs = on_server(s3_server, s3_bucket)
    wait_for(process, lambda: any(runs.glob("*/*/stages/1/*/adapter/*")))
    process.send_signal(signal.SIGKILL)
    finish(process)
    ended = run_to_end(job, None)
    assert ended.code == 0, ended.text
    assert adapters(runs) == adapters(local)


def wait_for(process: WarmProcess, condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds, and fail if the process ends before."""
    while not condition():
        assert process.poll() is None, finish(process).text
        time.sleep(0.005)
