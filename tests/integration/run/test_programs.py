"""A run that counts the programs that pass their tests: from the job to the report."""

import json
from pathlib import Path
from typing import Any

import pytest
from promptintern.sandbox.process import find_isolation

from tests.cli import write_job
from tests.runner import Runner
from tests.tiny import tiny_job

pytestmark = pytest.mark.skipif(not find_isolation().is_complete, reason="this kernel has no Landlock")
METRICS = ["PassAt1", "ChrF", "BashTemplate"]


def a_job(folder: Path, *, tests: list[list[str]]) -> dict[str, Any]:
    """Return a job whose held-out rows have ``tests``, and all metrics that no other test of a run has."""
    job = tiny_job(folder)
    job["spec"]["evaluation"] |= {"metrics": METRICS, "programs": {"timeoutSeconds": 20}}
    job["spec"]["evaluation"]["passAtK"] = {"samples": 3, "temperature": 1, "k": [3, 1]}
    job["spec"]["data"]["eval"]["columns"] = {"tests": "tests", "testSetup": "setup"}
    file = folder / "eval.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [row | {"tests": own, "setup": "x = 1"} for row, own in zip(rows, tests, strict=True)]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return job


def test_programs_are_run_and_reported(runner: Runner) -> None:
    ran = runner.run(a_job(runner.folder, tests=[["assert x == 1"]] * 4))
    assert ran.code == 0, ran.err
    assert "pass@1" in ran.out and "chrF" in ran.out
    folder, report = runner.output, runner.report()
    assert report["metrics"] == METRICS
    assert report["verdict"]["metric"] == report["examples"]["metric"] == "PassAt1"
    for arm in report["arms"]:
        assert list(arm["scores"]) == METRICS
        assert sum(arm["programs"].values()) == 4
        assert arm["scores"]["PassAt1"]["value"] == arm["programs"].get("Passed", 0) / 4
    (stage,) = {stage["metric"] for stage in report["stages"]}
    assert stage == "PassAt1"
    facts = json.loads((folder / "report/facts.json").read_text())
    drawn = report["passAtK"]
    assert list(drawn["arms"]) == list(facts["drawn"]["passes"]) == ["FullPrompt", "QueryOnly"]
    for arm, counts in facts["drawn"]["passes"].items():
        assert len(counts) == 4
        assert drawn["arms"][arm]["1"]["value"] == pytest.approx(sum(counts) / (3 * 4))
        assert drawn["arms"][arm]["3"]["value"] == sum(map(bool, counts)) / 4
    page = (folder / "report/report.html").read_text()
    assert "pass@3" in page
    assert "How the programs in the answers ended" in page


def test_a_held_out_row_without_tests_is_refused_at_its_line(runner: Runner) -> None:
    job = write_job(runner.folder, a_job(runner.folder, tests=[["assert 1"], [], ["assert 1"], ["assert 1"]]))
    ran = runner("validate", job)
    assert ran.code == 2
    assert "eval.jsonl:2: has no tests in column 'tests', which the metric PassAt1 needs" in ran.err + ran.out
