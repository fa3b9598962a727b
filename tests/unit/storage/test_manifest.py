"""Manifests and the folders that they commit."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.errors import RunFailed, UserError
from promptintern.storage.manifest import FileEntry, Manifest, commit_folder, fetch_folder, read_manifest
from promptintern.storage.store import Store, open_store
from pydantic import ValidationError

ENTRY = FileEntry(size=3, sha256="a" * 64)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * 1000)
    (folder / "sub" / "config.json").write_bytes(b"{}")
    return folder


def _commit(store: Store, local: Path, term: int = 1, **more: object) -> Manifest:
    arguments = {"folder": f"t{term}", "manifest_path": "manifest.json", "kind": "stage", "parent": None, "meta": {}}
    return commit_folder(store, local=local, term=term, **{**arguments, **more})  # type: ignore[arg-type]


def test_commit_and_fetch(store: Store, files: Path, tmp_path: Path) -> None:
    manifest = _commit(store, files, parent="b" * 64, meta={"rate": 0.5, "shots": 3})
    assert set(manifest.files) == {"weights", "sub/config.json"}
    assert manifest.files["weights"].size == 1000
    assert read_manifest(store, "manifest.json") == manifest
    fetch_folder(store, manifest, folder="t1", local=tmp_path / "copy")
    assert (tmp_path / "copy/weights").read_bytes() == b"w" * 1000
    assert (tmp_path / "copy/sub/config.json").read_bytes() == b"{}"
    document = json.loads(store.read("manifest.json"))
    assert document["schemaVersion"] == "2.1"
    assert document["meta"] == {"rate": 0.5, "shots": 3}


def test_the_first_commit_wins(store: Store, files: Path) -> None:
    first = _commit(store, files, term=1)
    (files / "weights").write_bytes(b"other")
    assert _commit(store, files, term=2) == first
    assert store.list() == ["manifest.json", "t1/sub/config.json", "t1/weights"]


def test_the_first_commit_wins_though_both_were_uploading(store: Store, files: Path) -> None:
    winners: list[Manifest] = []

    def other_is_first() -> None:
        if not winners:
            winners.append(_commit(store, files, term=2))

    assert _commit(store, files, term=1, fence=other_is_first) == winners[0]
    assert winners[0].term == 2


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_fence_stops_the_commit_at_any_point(store: Store, files: Path, calls: int) -> None:
    seen = 0

    def fence() -> None:
        nonlocal seen
        seen += 1
        if seen == calls:
            raise RunFailed("somebody else took over")

    with pytest.raises(RunFailed, match="took over"):
        _commit(store, files, fence=fence)
    assert len(store.list()) == calls - 1
    assert read_manifest(store, "manifest.json") is None


def test_the_manifest_may_lie_in_the_folder_but_not_take_a_files_name(store: Store, files: Path) -> None:
    _commit(store, files, folder="x", manifest_path="x/manifest.json")
    with pytest.raises(ValueError, match="own name"):
        _commit(store, files, folder="y", manifest_path="y/weights")


@pytest.mark.parametrize("damage", [b"w" * 999, b"v" * 1000, None])
def test_a_damaged_file_is_named(store: Store, files: Path, tmp_path: Path, damage: bytes | None) -> None:
    manifest = _commit(store, files)
    if damage is None:
        store.delete("t1/weights")
    else:
        store.write("t1/weights", damage)
    with pytest.raises(RunFailed, match=r"t1/weights is (missing|not what was committed)"):
        fetch_folder(store, manifest, folder="t1", local=tmp_path / "copy")
    assert not (tmp_path / "copy/weights").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"kind":"stage"}'])
def test_an_unreadable_manifest_says_what_to_do(store: Store, content: bytes) -> None:
    store.write("stages/0/manifest.json", content)
    with pytest.raises(RunFailed, match=r"stages/0/manifest\.json is not a valid manifest.*remove the file"):
        read_manifest(store, "stages/0/manifest.json")


@pytest.mark.parametrize("version", ["1.0", "9.0", None, 2, {"deep": [1]}, "x" * 1000])
def test_a_manifest_of_another_version_is_refused(store: Store, version: object) -> None:
    store.write("stages/0/manifest.json", json.dumps({"schemaVersion": version, "epoch": 1}).encode())
    with pytest.raises(UserError, match=r"stages/0/manifest\.json: was written by another version"):
        read_manifest(store, "stages/0/manifest.json")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", ""])
def test_a_manifest_cannot_name_files_outside(name: str) -> None:
    with pytest.raises(ValidationError, match="not a relative path"):
        Manifest(kind="stage", files={name: ENTRY}, term=1)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": [{"b": float("-inf")}]}])
def test_meta_is_json(value: object) -> None:
    with pytest.raises(ValidationError, match="NaN"):
        Manifest(kind="stage", files={}, term=1, meta={"loss": value})  # type: ignore[dict-item]


@given(meta=st.dictionaries(st.text(), JSON, max_size=4), names=st.sets(st.sampled_from("abcdef"), max_size=4))
def test_a_manifest_reads_back_with_the_same_digest(meta: dict[str, object], names: set[str]) -> None:
    manifest = Manifest(kind="stage", files=dict.fromkeys(names, ENTRY), term=3, meta=meta)  # type: ignore[arg-type]
    again = Manifest.model_validate_json(manifest.to_json())
    assert again == manifest
    assert again.digest() == manifest.digest()
    reordered = Manifest(
        kind="stage", files=dict.fromkeys(sorted(names, reverse=True), ENTRY), term=3, meta=manifest.meta
    )
    assert reordered.digest() == manifest.digest()
    assert Manifest(kind="stage", files=manifest.files, term=4, meta=manifest.meta).digest() != manifest.digest()
