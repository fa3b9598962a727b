"""The store on a real S3 server."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from promptintern.errors import RunFailed, UserError
from promptintern.storage.manifest import commit_folder, fetch_folder
from promptintern.storage.options import S3Options
from promptintern.storage.retry import RetryPolicy
from promptintern.storage.run import FencedOut, RunStore
from promptintern.storage.s3 import PART_BYTES
from promptintern.storage.store import Store, open_store

from tests.cluster.s3 import S3Server

WHO = {"host": "node-1", "pid": "42"}


@pytest.fixture
def store(s3_bucket: str, s3_options: S3Options) -> Store:
    return open_store(f"s3://{s3_bucket}/runs/team a", s3=s3_options)


def _use(store: Store) -> None:
    """Use and check every operation of a store, which are the same for every kind."""
    assert store.list() == []
    store.write("b/two", b"1")
    store.write("b/two", b"22")
    store.write("a", b"")
    store.write("b/c/three", b"333")
    assert store.read("b/two") == b"22"
    assert store.read("a") == b""
    assert [store.beginning("b/c/three", count) for count in (0, 2, 3, 9)] == [b"", b"33", b"333", b"333"]
    assert (store.beginning("a", 9), store.size("b/two"), store.size("none")) == (b"", 2, None)
    with pytest.raises(FileNotFoundError):
        store.beginning("none", 1)
    assert store.sizes() == {"a": 0, "b/c/three": 3, "b/two": 2}
    assert store.list("b") == ["b/c/three", "b/two"]
    assert (store.exists("a"), store.exists("b"), store.exists("b/tw")) == (True, False, False)
    assert store.create("new", b"mine")
    assert not store.create("new", b"mine")
    assert not store.create("new", b"other")
    assert store.read("new") == b"mine"
    with pytest.raises(FileNotFoundError):
        store.read("b")
    store.delete("b/c")
    store.delete("a")
    store.delete("never/was")
    assert store.list() == ["b/two", "new"]
    assert store.child("b").list() == ["two"]


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_all_kinds_do_the_same(kind: str, store: Store, tmp_path: Path) -> None:
    _use(store if kind == "s3" else open_store(tmp_path.as_uri()))


def test_large_files_go_in_parts(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(2 * PART_BYTES + 12345))
    entry = store.upload(source, "large")
    assert entry.size == 2 * PART_BYTES + 12345
    store.download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_more_files_than_one_listing_holds(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: store._backend.put(store._key(f"many/{i:04d}"), b"x"), range(1005)))
    assert store.list("many") == [f"many/{i:04d}" for i in range(1005)]
    store.delete("many")
    assert store.list("many") == []


def test_of_sixteen_racing_writers_one_wins(s3_bucket: str, s3_options: S3Options) -> None:
    stores = [open_store(f"s3://{s3_bucket}/race", s3=s3_options) for _ in range(16)]
    start = threading.Barrier(16)

    def race(i: int) -> bool:
        start.wait()
        return stores[i].create("terms/1.json", b"%d" % i * 1000)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert won.count(True) == 1
    assert stores[0].read("terms/1.json") == b"%d" % won.index(True) * 1000


def test_racing_claims_and_fencing(s3_bucket: str, s3_options: S3Options, tmp_path: Path) -> None:
    runs = [RunStore(open_store(f"s3://{s3_bucket}/run", s3=s3_options)) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        terms = list(pool.map(lambda run: run.claim_term(WHO), runs))
    assert sorted(terms) == list(range(1, 9))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights").write_bytes(b"w")
    with pytest.raises(FencedOut, match="term 8: host node-1, pid 42"):
        runs[0].commit_stage("0", term=1, local=tmp_path / "files", parent=None, meta={})
    manifest = runs[0].commit_stage("0", term=8, local=tmp_path / "files", parent=None, meta={})
    assert runs[1].fetch_stage("0", tmp_path / "copy") == manifest


def test_of_eight_racing_commits_one_wins_and_is_whole(s3_bucket: str, s3_options: S3Options, tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def commit(i: int) -> str:
        folder = tmp_path / f"files-{i}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"%d" % i * 1000)
        store = open_store(f"s3://{s3_bucket}/commit", s3=s3_options)
        start.wait()
        return commit_folder(
            store,
            folder=f"t{i}",
            local=folder,
            manifest_path="manifest.json",
            kind="stage",
            term=i,
            parent=None,
            meta={},
        ).digest()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(commit, range(8)))) == 1
    store = open_store(f"s3://{s3_bucket}/commit", s3=s3_options)
    run = RunStore(store)
    manifest = commit_folder(
        store, folder="t9", local=tmp_path, manifest_path="manifest.json", kind="stage", term=9, parent=None, meta={}
    )
    fetch_folder(run.store, manifest, folder=f"t{manifest.term}", local=tmp_path / "copy")
    assert (tmp_path / "copy" / "weights").read_bytes() == b"%d" % manifest.term * 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"v" * 1000, "runs/team a/stages/0/t1/adapter/weights is not what was committed: it has 1000 bytes with SHA"),
        (b"w" * 999, "runs/team a/stages/0/t1/adapter/weights is not what was committed: it has 999 bytes"),
        (None, "stages/0/t1/adapter/weights is missing, though its manifest was committed"),
    ],
)
def test_a_file_that_was_damaged_in_the_storage_is_named(
    content: bytes | None,
    message: str,
    store: Store,
    s3_server: S3Server,
    s3_bucket: str,
    s3_options: S3Options,
    tmp_path: Path,
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights").write_bytes(b"w" * 1000)
    run = RunStore(store)
    term = run.claim_term(WHO)
    run.commit_stage("0", term=term, local=tmp_path / "files", parent=None, meta={})
    stored = s3_server.object_path(s3_bucket, "runs/team a/stages/0/t1/adapter/weights")
    if content is None:
        stored.unlink()
    else:
        stored.write_bytes(content)
    reader = RunStore(open_store(store.uri, s3=s3_options, policy=RetryPolicy(deadline=0.5)))
    with pytest.raises(RunFailed, match=message):
        reader.fetch_stage("0", tmp_path / "copy")
    assert not (tmp_path / "copy" / "weights").exists()


def test_a_file_that_was_replaced_by_another_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights").write_bytes(b"w" * 1000)
    run = RunStore(store)
    run.commit_stage("0", term=run.claim_term(WHO), local=tmp_path / "files", parent=None, meta={})
    store.write("stages/0/t1/adapter/weights", b"v" * 1000)
    with pytest.raises(RunFailed, match=r"stages/0/t1/adapter/weights is not what was committed"):
        run.fetch_stage("0", tmp_path / "copy")
    assert not (tmp_path / "copy" / "weights").exists()


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_fail_at_once_and_are_kept_secret(
    variable: str, s3_bucket: str, s3_options: S3Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "wrongwrongwrongwrong")
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    store = open_store(f"s3://{s3_bucket}/x", s3=s3_options, policy=_never_again())
    for use in (lambda: store.write("a", b""), lambda: store.create("a", b""), lambda: store.read("a"), store.list):
        with pytest.raises(UserError) as refused:
            use()
        text = str(refused.value)
        assert s3_bucket in text
        assert "credentials" in text
        assert "AWS_ACCESS_KEY_ID" in text
        assert secret not in text


def test_a_missing_bucket_fails_at_once(s3_options: S3Options, s3_server: S3Server, tmp_path: Path) -> None:
    store = open_store("s3://no-such-bucket/x", s3=s3_options, policy=_never_again())
    (tmp_path / "file").write_bytes(b"1")
    uses = {
        "PutObject": lambda: store.upload(tmp_path / "file", "a"),
        "GetObject": lambda: store.read("a"),
        "ListObjectsV2": lambda: store.download("a", tmp_path / "copy"),
    }
    for operation, use in uses.items():
        with pytest.raises(UserError, match=f"s3://no-such-bucket: {operation}: there is no such bucket"):
            use()


def _never_again() -> RetryPolicy:
    def fail(seconds: float) -> None:
        raise AssertionError("this is no error to try again after")

    return RetryPolicy(sleep=fail)
