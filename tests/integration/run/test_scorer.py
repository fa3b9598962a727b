"""A run whose metric is a user's own function: from the job to the report."""

import json

import pytest
from promptintern.sandbox.process import find_isolation

from tests.cli import Ran, write_job
from tests.runner import Runner
from tests.tiny import tiny_job

pytestmark = pytest.mark.skipif(not find_isolation().is_complete, reason="this kernel has no Landlock")
MODULE = """
def score(query, answers, prediction):
    if len(prediction) % 2:
        raise ValueError(query)
    return 25.0

def broken(query, answers, prediction):
    raise RuntimeError("no scores today")
"""


@pytest.fixture
def run(runner: Runner, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Run a command on a job with this scorer, and put the module on Python's path."""
    (runner.folder / "own_scores.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(runner.folder))

    def go(command: str, entry_point: str) -> Ran:
        job = tiny_job(runner.folder)
        job["spec"]["evaluation"] |= {"metrics": ["Scorer", "ExactMatch"], "scorer": {"entryPoint": entry_point}}
        return runner.run(job) if command == "run" else runner(command, write_job(runner.folder, job))

    return go


def test_the_scores_of_a_function_are_reported(run, runner: Runner) -> None:  # type: ignore[no-untyped-def]
    ran = run("run", "own_scores:score")
    assert ran.code == 0, ran.err
    assert "own score" in ran.out
    report = runner.report()
    facts = json.loads((runner.output / "report/facts.json").read_text())
    assert report["verdict"]["metric"] == "Scorer"
    faults = 0
    for arm, told in zip(facts["arms"], report["arms"], strict=True):
        expected = [None if len(prediction) % 2 else 25.0 for prediction in arm["predictions"]]
        assert arm["numbers"] == expected
        assert told["scores"]["Scorer"]["value"] == pytest.approx(sum(number or 0 for number in expected) / 4)
        faults += expected.count(None)
    assert any("The scorer gave no number to" in warning for warning in report["warnings"]) == (faults > 0)


@pytest.mark.parametrize(
    ("entry_point", "message"), [("own_scores:broken", "no scores today"), ("own_scores:absent", "absent")]
)
def test_a_scorer_that_does_not_work_is_refused_before_training(  # type: ignore[no-untyped-def]
    run, entry_point: str, message: str
) -> None:
    ran = run("validate", entry_point)
    assert ran.code == 2
    assert "spec.evaluation.scorer" in ran.err + ran.out
    assert message in ran.err + ran.out
