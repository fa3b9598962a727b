"""The sentences of the template that no training row needs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from promptintern.pipeline.evaluation import coverage
from promptintern.pipeline.evaluation.coverage import COVERAGE_FOLDER, find_unneeded_sentences
from promptintern.pipeline.events import Note, Stopped
from promptintern.pipeline.inputs import load_data
from promptintern.pipeline.session import Session, open_session
from promptintern.sample.job import build_job
from promptintern.sample.prose import CUE
from promptintern.storage.run import RunStore
from promptintern.storage.store import open_store
from promptintern_api import parse_job

from tests.unit.pipeline.recorder import Recorder

NEEDED = "- Use , between two columns, or between a column and a number of days."
IDLE = "This is the third edition of the handbook."


def session_of(rows: int = 6, template: str | None = None) -> Session:
    job = build_job(world=4, rows=rows, queries=0 if rows else 6, name="covered")
    text = job["spec"]["prompt"]["template"]
    job["spec"]["prompt"]["template"] = template or text.replace(NEEDED, f"{NEEDED}\n{IDLE}")
    job["spec"]["data"]["eval"]["uri"] = "sample://formulas/eval?world=4&rows=4"
    parsed = parse_job(job)
    return open_session(parsed, load_data(parsed))


def found(session: Session, folder: Path, observer: Any = None) -> list[str]:
    store = RunStore(open_store(folder.as_uri()))
    return find_unneeded_sentences(session, store, term=store.claim_term({}), observer=observer or Recorder())


def test_a_sentence_that_changes_nothing_is_named_and_one_that_the_answers_need_is_not(tmp_path: Path) -> None:
    unneeded = found(session_of(), tmp_path)
    assert IDLE in unneeded
    assert NEEDED not in unneeded


def test_the_result_is_stored_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of()
    with pytest.raises(Stopped):
        found(session, tmp_path, Recorder(stop=True))
    store = RunStore(open_store(tmp_path.as_uri()))
    assert store.committed_document(COVERAGE_FOLDER, parent=None) is None
    first = found(session, tmp_path)
    monkeypatch.setattr(coverage, "_unneeded", None)
    assert found(session, tmp_path) == first


def test_nothing_is_scored_without_sentences_or_rows(tmp_path: Path) -> None:
    assert found(session_of(template="{examples}{query}" + CUE), tmp_path / "short") == []
    assert found(session_of(rows=0), tmp_path / "no lessons yet") == []


def test_a_device_with_too_little_memory_skips_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    recorder = Recorder()
    session = session_of()
    monkeypatch.setattr(coverage, "divergence_of_rows", fail)
    assert found(session, tmp_path / "later", recorder) == []
    monkeypatch.setattr(coverage, "score_rows", fail)
    assert found(session, tmp_path / "at once") == []
    assert any("too little memory" in event.text for event in recorder.events if isinstance(event, Note))
