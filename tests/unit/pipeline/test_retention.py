"""The check of what the trained model still does under another prompt."""

from pathlib import Path
from typing import Any

import pytest
import torch
from promptintern.errors import RunFailed, UserError
from promptintern.evaluate.neutral import NEUTRAL_PROMPTS
from promptintern.pipeline.evaluation.latency import Result
from promptintern.pipeline.evaluation.retention import RETENTION_FOLDER, check_retention, retention_prompts
from promptintern.pipeline.events import Note
from promptintern.pipeline.inputs import load_data
from promptintern.pipeline.session import Session, open_session
from promptintern.report.facts import RetentionFacts
from promptintern.sample import sample_template
from promptintern.sample.job import build_job
from promptintern.storage.run import RunStore
from promptintern.storage.store import open_store
from promptintern_api import parse_job

from tests.unit.pipeline.recorder import Recorder


class Trainer:
    """A trainer whose only stage is the adapter ``change`` away from a new one, in every parameter."""

    def __init__(self, session: Session, term: int, change: float) -> None:
        self.session, self.term, self.change = session, term, change

    def load(self, key: str | None) -> None:
        adapter = self.session.adapter
        noise = torch.randn(adapter.flat.shape, generator=torch.Generator().manual_seed(0))
        adapter.load_flat(adapter.initial if key is None else adapter.initial + self.change * noise)


def session_of(**retention: Any) -> Session:
    job = build_job(world=4, rows=4, name="kept")
    job["spec"]["data"]["eval"]["uri"] = "sample://formulas/eval?world=4&rows=4"
    job["spec"]["evaluation"]["retention"] = retention
    parsed = parse_job(job)
    return open_session(parsed, load_data(parsed))


OTHER: dict[str, Any] = {
    "template": sample_template(14).replace("{examples}", ""),
    "data": {"uri": "sample://formulas/queries?world=14&rows=12"},
}


def checked(change: float, folder: Path, **retention: Any) -> tuple[RetentionFacts, Recorder]:
    session, recorder = session_of(**(retention or OTHER)), Recorder()
    store = RunStore(open_store(folder.as_uri()))
    trainer: Any = Trainer(session, store.claim_term({}), change)
    prompts = retention_prompts(session)
    assert prompts is not None
    result = Result(stage=0, digest="abc", arm="QueryOnly", prompts=[])
    for _ in range(2):  # the second time, the figures are in storage
        check_retention(session, store, trainer, prompts, result, recorder)  # type: ignore[arg-type]
    assert sum(isinstance(event, Note) for event in recorder.events) == 1
    document = store.committed_document(RETENTION_FOLDER, parent="abc")
    assert document is not None
    assert store.committed_document(RETENTION_FOLDER, parent="of another adapter") is None
    return RetentionFacts.model_validate(document), recorder


def test_an_adapter_that_changes_nothing_passes(tmp_path: Path) -> None:
    facts, _ = checked(0.0, tmp_path)
    assert (facts.prompts, facts.changed) == (12, 0)
    assert facts.divergence < 1e-5
    assert facts.tokens > 12
    assert facts.passed
    assert not facts.neutral


def test_an_adapter_that_changes_much_fails_and_a_warning_says_so(tmp_path: Path) -> None:
    facts, recorder = checked(0.2, tmp_path)
    assert facts.divergence > 0.25
    assert facts.changed > 0
    assert not facts.passed
    (note,) = (event for event in recorder.events if isinstance(event, Note))
    assert note.warning
    assert f"{facts.changed} of 12 answers under another prompt changed" in note.text


def test_neutral_prompts_are_used_without_data(tmp_path: Path) -> None:
    assert len(set(NEUTRAL_PROMPTS)) == len(NEUTRAL_PROMPTS)
    prompts = retention_prompts(session_of())
    assert prompts is not None
    assert prompts.texts == list(NEUTRAL_PROMPTS)


def test_prompts_that_do_not_fit_are_left_out_and_one_must_be_left() -> None:
    fits = retention_prompts(session_of(**OTHER))
    assert fits is not None
    assert len(fits.ids) == 12
    with pytest.raises(UserError, match=r"spec.evaluation.retention: no prompt fits"):
        retention_prompts(session_of(template="word " * 3000 + "{query}", data=OTHER["data"]))


@pytest.mark.parametrize(
    ("divergence", "changed", "max_changed", "passed"),
    [(0.2, 9, None, True), (0.3, 0, None, False), (0.2, 5, 0.5, True), (0.2, 6, 0.5, False), (0.25, 0, 0.0, True)],
)
def test_the_gate(divergence: float, changed: int, max_changed: float | None, passed: bool) -> None:
    facts = RetentionFacts(
        prompts=10,
        changed=changed,
        tokens=50,
        divergence=divergence,
        max_divergence=0.25,
        max_changed=max_changed,
        neutral=True,
    )
    assert facts.passed == passed


def test_nothing_that_was_compared_is_no_pass() -> None:
    facts = RetentionFacts(prompts=3, changed=0, tokens=0, divergence=0, max_divergence=0.25, neutral=True)
    assert not facts.passed


def test_probabilities_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="are not finite"):
        checked(float("nan"), tmp_path)
