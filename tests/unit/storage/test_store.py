"""The store on a local folder."""

import errno
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from promptintern.errors import RunFailed, UserError
from promptintern.storage import local as local_module
from promptintern.storage.retry import RetryPolicy
from promptintern.storage.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "a folder").as_uri(), policy=RetryPolicy(deadline=5, sleep=lambda _: None))


def test_files_are_written_replaced_listed_and_removed(store: Store) -> None:
    assert store.list() == []
    store.write("b/two", b"1")
    store.write("b/two", b"22")
    store.write("a", b"")
    store.write("b/c/three", b"333")
    assert store.read("b/two") == b"22"
    assert store.list() == ["a", "b/c/three", "b/two"]
    assert store.sizes("b") == {"b/c/three": 3, "b/two": 2}
    assert store.exists("a")
    assert not store.exists("b")
    store.delete("b/c")
    store.delete("a")
    store.delete("never/was")
    assert store.list() == ["b/two"]
    with pytest.raises(FileNotFoundError):
        store.read("a")


def test_a_folder_is_no_prefix_of_names(store: Store) -> None:
    for path in ("step-1/x", "step-10/x", "step-1.json"):
        store.write(path, b"x")
    assert store.list("step-1") == ["step-1/x"]
    store.delete("step-1")
    assert store.list() == ["step-1.json", "step-10/x"]


def test_a_child_is_the_folder_below(store: Store) -> None:
    child = store.child("runs", "team a/job")
    child.write("x/y", b"1")
    assert store.list() == ["runs/team a/job/x/y"]
    assert child.list() == ["x/y"]
    assert open_store(child.uri).read("x/y") == b"1"


def test_create_is_exclusive_and_whole(store: Store) -> None:
    bodies = [bytes([i]) * 10_000 for i in range(16)]
    start = threading.Barrier(len(bodies))

    def race(body: bytes) -> bool:
        start.wait()
        return store.create("terms/1.json", body)

    with ThreadPoolExecutor(len(bodies)) as pool:
        won = list(pool.map(race, bodies))
    assert won.count(True) == 1
    assert store.read("terms/1.json") == bodies[won.index(True)]
    assert store.list() == ["terms/1.json"]
    assert not store.create("terms/1.json", store.read("terms/1.json")), "equal content is no second first"


def test_readers_see_the_old_or_the_new(store: Store) -> None:
    store.write("doc", b"a" * 100_000)
    done = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            content = store.read("doc")
            seen.add(content[:1] + content[-1:] + str(len(content)).encode())

    reader = threading.Thread(target=read)
    reader.start()
    for letter in (b"b", b"c") * 20:
        store.write("doc", letter * 100_000)
    done.set()
    reader.join()
    assert seen <= {b"aa100000", b"bb100000", b"cc100000"}


def test_upload_and_download(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(os.urandom(3_000_000))
    entry = store.upload(source, "adapter/weights")
    assert entry.size == 3_000_000
    assert entry.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    store.download("adapter/weights", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == source.read_bytes()
    with pytest.raises(FileNotFoundError):
        store.download("adapter/none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_leftovers_of_a_crash_are_never_seen(store: Store, tmp_path: Path) -> None:
    store.write("a/x", b"1")
    (tmp_path / "a folder" / "a" / ".tmp-0123").write_bytes(b"half")
    assert store.list() == ["a/x"]
    store.delete("a")
    assert not (tmp_path / "a folder" / "a").exists()


def test_files_have_the_users_own_mode(store: Store, tmp_path: Path) -> None:
    store.write("a", b"1")
    store.create("b", b"1")
    (tmp_path / "plain").write_bytes(b"")
    expected = (tmp_path / "plain").stat().st_mode
    assert {(tmp_path / "a folder" / name).stat().st_mode for name in "ab"} == {expected}


@pytest.mark.parametrize("path", ["", "/a", "a//b", "..", "a/../b", "./a", ".tmp-a", "a/.tmp-b/c", "a\0b", "a\\..\\b"])
def test_paths_stay_within(store: Store, path: str) -> None:
    for use in (store.read, store.exists, store.delete, store.child, lambda p: store.write(p, b"")):
        with pytest.raises(ValueError, match="not a relative path"):
            use(path)


@pytest.mark.parametrize("uri", ["", "runs", "/abs", "file:runs", "file://host/x", "s3://", "gs://b/x", "hf://a/b"])
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(UserError, match="file:///"):
        open_store(uri)


def _failing(monkeypatch: pytest.MonkeyPatch, name: str, *codes: int) -> list[int]:
    """Make the storage's ``os.<name>`` fail with each of ``codes`` after it has done its work."""
    left = list(codes)
    real = getattr(os, name)

    def fail(*arguments: Any, **keywords: Any) -> Any:
        result = real(*arguments, **keywords)
        if left:
            code = left.pop(0)
            raise OSError(code, os.strerror(code))
        return result

    monkeypatch.setattr(local_module.os, name, fail)
    return left


def test_an_io_error_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    left = _failing(monkeypatch, "fsync", errno.EIO, errno.ESTALE)
    store.write("a", b"1")
    assert left == []
    assert store.read("a") == b"1"


def test_a_create_that_was_made_unseen_is_ours(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    left = _failing(monkeypatch, "link", errno.EIO)
    assert store.create("a", b"1")
    assert left == []
    assert store.list() == ["a"]


def test_a_full_disk_names_path_and_space(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a", b"old")
    _failing(monkeypatch, "fsync", errno.ENOSPC)
    with pytest.raises(RunFailed, match=rf"{tmp_path}/a folder/a: .*no space.*MiB are free"):
        store.write("a", b"new")
    assert store.read("a") == b"old"
    assert store.list() == ["a"]


def test_a_full_disk_while_downloading(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a", b"1")
    _failing(monkeypatch, "fsync", errno.ENOSPC)
    with pytest.raises(RunFailed, match=rf"{tmp_path}/copy: .*no space"):
        store.download("a", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_missing_rights_are_the_users_to_mend(store: Store, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, "fsync", code)
    with pytest.raises(UserError, match=r"a folder/a: cannot write: .*choose a folder"):
        store.write("a", b"1")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_bytes(b"")
    with pytest.raises(UserError, match="choose another folder"):
        open_store((tmp_path / "runs").as_uri()).write("a/b", b"1")


def test_a_file_system_without_links_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, "link", errno.EOPNOTSUPP)
    with pytest.raises(UserError, match="does not support hard links"):
        store.create("a", b"1")
