"""With an S3 server that is down or fails, or a network that fails, commits are complete or do not exist."""

import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from promptintern.errors import RunFailed
from promptintern.storage.background import BackgroundWriter
from promptintern.storage.manifest import read_manifest
from promptintern.storage.options import S3Options
from promptintern.storage.retry import RetryPolicy
from promptintern.storage.run import RunStore
from promptintern.storage.s3 import PART_BYTES
from promptintern.storage.store import Store, open_store
from structlog.testing import capture_logs

from tests.cluster.faultproxy import (
    CutDownload,
    CutUpload,
    Delay,
    Fail,
    Fault,
    FaultProxy,
    LoseAnswer,
    Plan,
    Request,
    ShortenUpload,
    Swallow,
    every,
    every_third,
)
from tests.cluster.s3 import S3Server

QUICK = RetryPolicy(deadline=30, longest_wait=0.5)
SHORT = RetryPolicy(deadline=1.5, longest_wait=0.3)
WHO = {"host": "node-1", "pid": "42"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("adapter_model.safetensors", "optimizer.safetensors", "trajectory.json"):
        (folder / name).write_bytes(os.urandom(100_000))
    return folder


def _run_through(proxy: FaultProxy, bucket: str, policy: RetryPolicy = QUICK) -> RunStore:
    return RunStore(open_store(f"s3://{bucket}/run", s3=S3Options(endpoint=proxy.url), policy=policy))


def _work(run: RunStore, files: Path) -> None:
    """Write what a small run writes."""
    term = run.claim_term(WHO)
    for stage in "01":
        for step in (1, 2):
            run.save_checkpoint(stage, term=term, step=step, local=files, keep=1, meta={})
        run.commit_stage(stage, term=term, local=files, parent=None, meta={"rate": 0.5})
    run.commit_document("evaluation/Base", {"verdict": "good"}, term=term, parent=None)


def _assert_what_is_visible_is_whole(direct: Store, local: Path) -> int:
    """Check the files of every manifest, and return the number of manifests."""
    run = RunStore(direct)
    manifests = [path for path in direct.list("stages") if path.endswith("manifest.json")]
    for number, path in enumerate(manifests):
        manifest = read_manifest(direct, path)
        assert manifest is not None
        folder = path.removesuffix("/manifest.json")
        folder = f"{folder}/t{manifest.term}/adapter" if manifest.kind == "stage" else folder
        run.fetch_checkpoint(manifest, folder, local / str(number))
    return len(manifests)


def _writes(request: Request) -> bool:
    return request.method == "PUT" and request.size > 1


def _reads(request: Request) -> bool:
    return request.method == "GET"


def _of_optimizer(request: Request) -> bool:
    return _writes(request) and "optimizer" in request.target


@pytest.mark.parametrize(
    "plan",
    [
        lambda: every_third,
        lambda: every(4, CutUpload(), when=_writes),
        lambda: every(4, ShortenUpload(), when=_writes),
        lambda: every(3, LoseAnswer(), when=_writes),
        lambda: every(5, CutDownload(), when=_reads),
        lambda: every(5, Delay(seconds=0.2)),
    ],
    ids=["every third fails", "uploads cut", "uploads shortened", "answers lost", "downloads cut", "slow"],
)
def test_a_run_gets_through(
    plan: Callable[[], Plan],
    s3_server: S3Server,
    s3_bucket: str,
    s3_options: S3Options,
    files: Path,
    tmp_path: Path,
) -> None:
    with FaultProxy(s3_server.url, plan()) as proxy:
        run = _run_through(proxy, s3_bucket)
        _work(run, files)
        assert len(proxy.faults) >= 3
        for stage in "01":
            run.fetch_stage(stage, tmp_path / stage)
    direct = open_store(f"s3://{s3_bucket}/run", s3=s3_options)
    assert _assert_what_is_visible_is_whole(direct, tmp_path / "copies") == 2
    assert direct.list("terms") == ["terms/1.json"]
    assert (tmp_path / "1" / "trajectory.json").read_bytes() == (files / "trajectory.json").read_bytes()


@pytest.mark.parametrize("fault", [Fail(status=500), Fail(status=503), CutUpload(), ShortenUpload()], ids=repr)
def test_uploads_that_never_arrive_fail_by_name_and_leave_no_manifest(
    fault: Fault, s3_server: S3Server, s3_bucket: str, s3_options: S3Options, files: Path
) -> None:
    with FaultProxy(s3_server.url, every(1, fault, when=_of_optimizer)) as proxy:
        run = _run_through(proxy, s3_bucket, SHORT)
        term = run.claim_term(WHO)
        with pytest.raises(RunFailed) as failed:
            run.commit_stage("0", term=term, local=files, parent=None, meta={})
    text = str(failed.value)
    for part in ("PutObject", f"bucket {s3_bucket}", "key run/stages/0/t1/adapter/optimizer.safetensors"):
        assert part in text
    direct = open_store(f"s3://{s3_bucket}/run", s3=s3_options)
    assert RunStore(direct).stage_manifest("0") is None
    assert not direct.exists("stages/0/t1/adapter/optimizer.safetensors")


def test_a_write_that_was_swallowed_is_noticed(
    s3_server: S3Server, s3_bucket: str, s3_options: S3Options, files: Path
) -> None:
    with FaultProxy(s3_server.url, every(1, Swallow(), when=_of_optimizer)) as proxy:
        run = _run_through(proxy, s3_bucket, SHORT)
        term = run.claim_term(WHO)
        with pytest.raises(
            RunFailed, match=r"optimizer\.safetensors: the file reads back different from what was written"
        ):
            run.commit_stage("0", term=term, local=files, parent=None, meta={})
    assert RunStore(open_store(f"s3://{s3_bucket}/run", s3=s3_options)).stage_manifest("0") is None


def test_short_files_are_noticed_though_nothing_is_signed(
    s3_server: S3Server,
    s3_bucket: str,
    s3_options: S3Options,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If neither signature nor checksum covers the body, as with some gateways, only reading back detects damage."""
    uploads = itertools.count()
    config = tmp_path / "config"
    config.write_text(
        "[default]\nrequest_checksum_calculation = when_required\ns3 =\n    payload_signing_enabled = false\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    shorten_first_two = every(1, ShortenUpload(), when=lambda r: _of_optimizer(r) and next(uploads) < 2)
    with FaultProxy(s3_server.url, shorten_first_two) as proxy, capture_logs() as logs:
        run = _run_through(proxy, s3_bucket, SHORT)
        run.commit_stage("0", term=run.claim_term(WHO), local=files, parent=None, meta={})
        assert len(proxy.faults) == 2
    assert [log["event"] for log in logs] == ["storage: the stored file differs from the one sent"] * 2
    direct = open_store(f"s3://{s3_bucket}/run", s3=s3_options)
    assert _assert_what_is_visible_is_whole(direct, tmp_path / "copies") == 1


def test_a_create_whose_answer_was_lost_is_ours(s3_server: S3Server, s3_bucket: str) -> None:
    lost: list[int] = []

    def lose_the_first(request: Request) -> Fault | None:
        if request.exclusive and not lost:
            lost.append(request.number)
            return LoseAnswer()
        return None

    with FaultProxy(s3_server.url, lose_the_first) as proxy:
        run = _run_through(proxy, s3_bucket)
        assert run.claim_term(WHO) == 1
        assert lost
        run.check_term(1)
        assert run.claim_term(WHO) == 2


def test_a_create_that_lost_the_race_behind_an_error_is_not_ours(
    s3_server: S3Server, s3_bucket: str, s3_options: S3Options
) -> None:
    other = open_store(f"s3://{s3_bucket}/run", s3=s3_options)

    def other_is_first(request: Request) -> Fault | None:
        if request.exclusive and not other.exists("manifest.json"):
            assert other.create("manifest.json", b"theirs")
            return Fail(status=503)
        return None

    with FaultProxy(s3_server.url, other_is_first) as proxy:
        store = _run_through(proxy, s3_bucket).store
        assert not store.create("manifest.json", b"mine")
    assert other.read("manifest.json") == b"theirs"


def test_the_server_is_killed_in_the_middle_of_an_upload_and_comes_back(own_s3: S3Server, tmp_path: Path) -> None:
    bucket = own_s3.create_bucket()
    files = tmp_path / "files"
    files.mkdir()
    (files / "optimizer.safetensors").write_bytes(os.urandom(3 * PART_BYTES))
    (files / "adapter_model.safetensors").write_bytes(os.urandom(1000))
    reached = threading.Event()

    def watch(request: Request) -> Fault | None:
        if "partNumber=2" in request.target and not reached.is_set():
            reached.set()
            return Delay(seconds=0.3)  # so that the server dies while it waits for this part
        return None

    def outage() -> None:
        assert reached.wait(60)
        own_s3.kill()
        time.sleep(6)
        own_s3.start()

    server_dies = threading.Thread(target=outage)
    with FaultProxy(own_s3.url, watch) as proxy, capture_logs() as logs:
        run = _run_through(proxy, bucket)
        term = run.claim_term(WHO)
        server_dies.start()
        with BackgroundWriter() as writer:
            writer.submit(lambda: run.commit_stage("0", term=term, local=files, parent=None, meta={}))
        server_dies.join()
    assert any(log["event"] == "storage: retrying" and log["bucket"] == bucket for log in logs)
    direct = open_store(f"s3://{bucket}/run", s3=S3Options(endpoint=own_s3.url))
    assert _assert_what_is_visible_is_whole(direct, tmp_path / "copies") == 1


def test_a_server_that_stays_away_is_named(own_s3: S3Server, files: Path) -> None:
    bucket = own_s3.create_bucket()
    run = RunStore(open_store(f"s3://{bucket}/run", s3=S3Options(endpoint=own_s3.url), policy=SHORT))
    term = run.claim_term(WHO)
    own_s3.kill()
    with pytest.raises(RunFailed) as failed:
        run.save_checkpoint("0", term=term, step=1, local=files, keep=2, meta={})
    for part in (f"bucket {bucket}", "ListObjectsV2", str(own_s3.port), "run the same command again"):
        assert part in str(failed.value)
    own_s3.start()
    assert json.loads(run.store.read("terms/1.json"))["who"] == WHO
    assert run.latest_checkpoint("0") is None
