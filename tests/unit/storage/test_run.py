"""A run's folder: terms, stages, checkpoints."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from promptintern.errors import RunFailed, UserError
from promptintern.storage.backend import Backend
from promptintern.storage.local import LocalBackend
from promptintern.storage.retry import RetryPolicy
from promptintern.storage.run import FencedOut, RunStore
from promptintern.storage.store import Store, open_store
from structlog.testing import capture_logs

WHO = {"host": "node-1", "pid": "42", "at": "2026-01-02T03:04:05+00:00"}


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return RunStore(open_store((tmp_path / "run").as_uri()))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "state.safetensors").write_bytes(b"s" * 500)
    (folder / "trajectory.json").write_bytes(b"{}")
    return folder


def _save(run: RunStore, files: Path, step: int, *, term: int = 1, keep: int = 2) -> None:
    run.save_checkpoint("0", term=term, step=step, local=files, keep=keep, meta={"track": "stage 1"})


def _steps(run: RunStore) -> list[str]:
    return [
        p.removeprefix("stages/0/").removesuffix("/manifest.json")
        for p in run.store.list()
        if "step" in p and "manifest" in p
    ]


def test_terms_count_up(run: RunStore) -> None:
    assert run.newest_term() == 0
    assert [run.claim_term(WHO) for _ in range(12)] == list(range(1, 13))
    assert run.newest_term() == 12
    run.check_term(12)


def test_racing_claims_get_different_terms(run: RunStore) -> None:
    start = threading.Barrier(8)

    def claim(_: int) -> int:
        start.wait()
        return run.claim_term(WHO)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(claim, range(8))) == list(range(1, 9))


def test_a_process_that_is_fenced_out_learns_by_which(run: RunStore) -> None:
    run.claim_term({"host": "old"})
    run.claim_term(WHO)
    with pytest.raises(FencedOut, match=r"term 2: host node-1, pid 42, at 2026-01-02.*this one \(term 1\) stops"):
        run.check_term(1)


def test_a_process_that_is_fenced_out_writes_nothing(run: RunStore, files: Path) -> None:
    run.claim_term(WHO)
    run.claim_term(WHO)
    before = run.store.list()
    with pytest.raises(FencedOut):
        _save(run, files, 1, term=1)
    with pytest.raises(FencedOut):
        run.commit_stage("0", term=1, local=files, parent=None, meta={})
    assert run.store.list() == before


def test_a_probe_leaves_nothing(run: RunStore) -> None:
    run.probe()
    assert run.store.list() == []


@pytest.mark.parametrize("use", [RunStore.probe, lambda run: run.claim_term(WHO)])
def test_a_storage_that_overwrites_is_refused(tmp_path: Path, use: Callable[[RunStore], object]) -> None:
    class Overwriting(LocalBackend):
        def create(self, key: str, data: bytes) -> bool:
            self.put(key, data)
            return True

    backend: Backend = Overwriting(tmp_path, RetryPolicy())
    with pytest.raises(UserError, match="If-None-Match"):
        use(RunStore(Store(backend)))


def test_a_stage_is_committed_and_fetched(run: RunStore, files: Path, tmp_path: Path) -> None:
    term = run.claim_term(WHO)
    assert run.stage_manifest("direct") is None
    with pytest.raises(RunFailed, match=r"stages/direct/manifest\.json is missing"):
        run.fetch_stage("direct", tmp_path / "copy")
    manifest = run.commit_stage("direct", term=term, local=files, parent="a" * 64, meta={"rate": 1.0})
    assert run.stage_manifest("direct") == manifest
    assert run.fetch_stage("direct", tmp_path / "copy") == manifest
    assert (tmp_path / "copy/state.safetensors").read_bytes() == b"s" * 500
    assert run.store.list("stages") == [
        "stages/direct/manifest.json",
        "stages/direct/t1/adapter/state.safetensors",
        "stages/direct/t1/adapter/trajectory.json",
    ]


def test_the_newest_checkpoints_are_kept_over_all_terms(run: RunStore, files: Path) -> None:
    run.claim_term(WHO)
    for step in (5, 10, 1000000):
        _save(run, files, step)
    run.claim_term(WHO)
    assert _steps(run) == ["t1/checkpoints/step-000010", "t1/checkpoints/step-1000000"]
    _save(run, files, 1000001, term=2)
    assert _steps(run) == ["t1/checkpoints/step-1000000", "t2/checkpoints/step-1000001"]
    checkpoint = run.latest_checkpoint("0")
    assert checkpoint is not None
    assert checkpoint[0].meta == {"step": 1000001, "track": "stage 1"}
    assert checkpoint[1] == "stages/0/t2/checkpoints/step-1000001"


def test_at_one_step_the_newer_term_counts(run: RunStore, files: Path) -> None:
    for term in (1, 2):
        run.claim_term(WHO)
        _save(run, files, 7, term=term)
    checkpoint = run.latest_checkpoint("0")
    assert checkpoint is not None
    assert checkpoint[0].term == 2


@pytest.mark.parametrize("damage", ["short manifest", "missing file", "short file", "no manifest"])
def test_a_broken_checkpoint_is_passed_over(run: RunStore, files: Path, tmp_path: Path, damage: str) -> None:
    run.claim_term(WHO)
    for step in (1, 2):
        _save(run, files, step)
    folder = "stages/0/t1/checkpoints/step-000002"
    whole = run.store.read(f"{folder}/manifest.json")
    match damage:
        case "short manifest":
            run.store.write(f"{folder}/manifest.json", whole[:-20])
        case "missing file":
            run.store.delete(f"{folder}/state.safetensors")
        case "short file":
            run.store.write(f"{folder}/state.safetensors", b"s" * 499)
        case "no manifest":
            run.store.delete(f"{folder}/manifest.json")
    with capture_logs() as logs:
        checkpoint = run.latest_checkpoint("0")
    assert checkpoint is not None
    assert checkpoint[1].endswith("step-000001")
    assert [log["folder"] for log in logs] == ([] if damage == "no manifest" else [folder])
    run.fetch_checkpoint(*checkpoint, tmp_path / "copy")
    assert (tmp_path / "copy/state.safetensors").read_bytes() == b"s" * 500
    # A broken checkpoint does not count, so pruning keeps the readable ones.
    _save(run, files, 3)
    assert _steps(run)[0] == "t1/checkpoints/step-000001"


def test_a_checkpoint_is_of_one_stage_only(run: RunStore, files: Path) -> None:
    run.claim_term(WHO)
    _save(run, files, 3)
    assert run.latest_checkpoint("1") is None
    assert run.latest_checkpoint("00") is None


def test_a_commit_drops_checkpoints_of_all_terms_of_its_stage_only(run: RunStore, files: Path) -> None:
    for term in (1, 2):
        run.claim_term(WHO)
        _save(run, files, term, term=term)
    run.save_checkpoint("1", term=2, step=1, local=files, keep=2, meta={})
    run.store.write("stages/0/t1/adapter/half", b"of a commit that was killed")
    run.commit_stage("0", term=2, local=files, parent=None, meta={})
    left = run.store.list("stages/0")
    assert left == [
        "stages/0/manifest.json",
        *(f"stages/0/t2/adapter/{n}" for n in ("state.safetensors", "trajectory.json")),
    ]
    assert run.latest_checkpoint("0") is None
    assert run.latest_checkpoint("1") is not None


def test_a_manifest_is_removed_before_its_files(tmp_path: Path, files: Path) -> None:
    removed: list[str] = []

    class Recording(LocalBackend):
        def delete(self, key: str) -> None:
            removed.append(key)
            super().delete(key)

    run = RunStore(Store(Recording(tmp_path / "run", RetryPolicy())))
    run.claim_term(WHO)
    for step in (1, 2):
        _save(run, files, step, keep=1)
    folder = "stages/0/t1/checkpoints/step-000001"
    assert removed == [f"{folder}/manifest.json", folder]


def test_the_next_claim_removes_what_a_kill_left_of_a_committed_stage(run: RunStore, files: Path) -> None:
    run.claim_term(WHO)
    run.commit_stage("0", term=1, local=files, parent=None, meta={})
    committed = run.store.list("stages")
    run.store.write("stages/0/t1/checkpoints/step-000001/manifest.json", b"{}")
    run.store.write("stages/1/t1/checkpoints/step-000001/manifest.json", b"{}")
    run.claim_term(WHO)
    assert run.store.list("stages") == [*committed, "stages/1/t1/checkpoints/step-000001/manifest.json"]


def test_documents(run: RunStore) -> None:
    assert run.read_json("job.json") is None
    assert run.create_json("job.json", {"name": "é", "n": 1})
    assert not run.create_json("job.json", {"name": "other"})
    assert run.read_json("job.json") == {"name": "é", "n": 1}
    for content in (b"{", b"[1]", b"\xff"):
        run.store.write("bad.json", content)
        with pytest.raises(RunFailed, match=r"bad\.json is not (valid JSON|a JSON object)"):
            run.read_json("bad.json")
    with pytest.raises(ValueError, match="JSON"):
        run.create_json("nan.json", {"loss": float("nan")})


def test_a_document_is_committed_once_for_what_it_builds_on(run: RunStore) -> None:
    term = run.claim_term(WHO)
    folder = "evaluation/QueryOnly"
    assert run.committed_document(folder, parent="a") is None
    assert run.commit_document(folder, {"n": 1}, term=term, parent="a") == {"n": 1}
    assert run.commit_document(folder, {"n": 2}, term=term, parent="a") == {"n": 1}
    assert run.committed_document(folder, parent="b") is None
    assert run.commit_document(folder, {"n": 3}, term=term, parent="b") == {"n": 3}
    assert run.committed_document(folder, parent="a") is None
    assert run.committed_document(folder, parent="b") == {"n": 3}


def test_a_document_without_its_manifest_is_none_and_a_damaged_one_is_named(run: RunStore) -> None:
    term = run.claim_term(WHO)
    run.commit_document("evaluation/Base", {"n": 1}, term=term, parent=None)
    run.store.write("evaluation/Base/t1/document.json", b'{"n": 7}')
    with pytest.raises(RunFailed, match=r"evaluation/Base/t1/document\.json is not what was committed"):
        run.committed_document("evaluation/Base", parent=None)
    run.store.delete("evaluation/Base/manifest.json")
    assert run.committed_document("evaluation/Base", parent=None) is None


def test_a_process_that_is_fenced_out_commits_no_document(run: RunStore) -> None:
    term = run.claim_term(WHO)
    run.claim_term(WHO)
    with pytest.raises(FencedOut):
        run.commit_document("evaluation/Base", {}, term=term, parent=None)
    assert run.committed_document("evaluation/Base", parent=None) is None


def test_a_term_that_cannot_be_made_ends_the_claim(run: RunStore, tmp_path: Path) -> None:
    (tmp_path / "run/terms/1.json").mkdir(parents=True)
    with pytest.raises(RunFailed, match=r"terms/1\.json can neither be created nor read"):
        run.claim_term(WHO)


def test_a_driver_claims_again_and_again_until_another_one_does(run: RunStore) -> None:
    run.claim_term(WHO)
    first, second = run.new_claimant(), run.new_claimant()
    assert run.claim_term(WHO, first) == 2
    assert run.claim_term(WHO, first) == 3, "its workers were started again"
    with pytest.raises(FencedOut) as fenced:
        run.check_term(2)
    assert fenced.value.claimant == first.id
    with pytest.raises(FencedOut, match="term 3: host node-1"):
        run.claim_term(WHO, second)
    third = run.new_claimant()
    assert run.claim_term(WHO, third) == 4
    with pytest.raises(FencedOut) as fenced:
        run.claim_term(WHO, first)
    assert fenced.value.claimant == third.id


def test_a_late_upload_of_an_older_process_falls_on_nothing(run: RunStore) -> None:
    older, newer = run.claim_term(WHO), run.claim_term(WHO)
    run.commit_document("evaluation/Base", {"n": 2}, term=newer, parent=None)
    run.store.write(f"evaluation/Base/t{older}/document.json", b'{"n": 1}')
    assert run.committed_document("evaluation/Base", parent=None) == {"n": 2}
