"""The page on pretrained models: its sentences follow from the figures, and its jobs are valid."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from promptintern.report.build import build_report
from promptintern.report.facts import AttemptFacts
from promptintern.report.schema import Comparison, Figure, WallTime
from promptintern_api import parse_job
from promptintern_api.metrics import Metric

from benchmarks.real import tasks
from benchmarks.real.__main__ import _job_name, job_digest
from benchmarks.real.models import REQUIREMENTS, SOURCES
from benchmarks.real.page import QUESTIONS, answer, kept, page_of
from benchmarks.real.record import Measured, merge, read_records, write_records
from benchmarks.real.tasks import TASKS, Task, job_of
from tests.tiny import write_tiny_model
from tests.unit.report.figures import facts

QUESTION = QUESTIONS[0]


def compare(value: float, reading: str) -> Comparison:
    return Comparison.model_validate(
        {
            "metric": Metric.EXACT_MATCH,
            "arm": "FullPrompt",
            "against": "Base",
            "difference": Figure(value=value, low=value - 0.1, high=value + 0.1, method="any"),
            "pValue": 0.5,
            "correctedPValue": 0.5,
            "smallestDifference": 0.14,
            "reading": reading,
        }
    )


@pytest.mark.parametrize(
    ("readings", "begins"),
    [
        (["better"], "Yes ("),
        (["better", "better"], "Yes ("),
        (["worse"], "No, it did harm ("),
        (["undecided"], "These rows cannot tell ("),
        (["better", "undecided"], "Not every seed can tell ("),
        (["better", "worse"], "Not every seed can tell ("),
    ],
)
def test_an_answer_needs_every_seed(readings: list[str], begins: str) -> None:
    text = answer(QUESTION, [compare(0.2, reading) for reading in readings])
    assert text.startswith(begins)
    assert "+20.0" in text
    assert ("a difference of 14.0 points" in text) == (begins not in ("Yes (", "No, it did harm ("))


def test_the_page_tells_what_each_run_found() -> None:
    report = build_report(facts())
    runs = [Measured(task="nlrx", model="some-model", seed=seed, report=report, seconds=3600) for seed in range(2)]
    page = page_of(runs)
    assert f"The verdict is {report.verdict.outcome} with each of 2 seeds." in page
    assert "a folder of safetensors" in page
    assert "2 seeds" in page and "1.0, 1.0 h" in page
    for arm in report.arms:
        assert f"| {arm.name} |" in page
    assert kept(runs[:1]) == f"The verdict is {report.verdict.outcome}."


def test_the_page_tells_what_a_teacher_taught_and_where_the_time_went() -> None:
    run = facts()
    queries = run.data.eval.model_copy(update={"rows": 240})
    taught = run.model_copy(
        update={
            "data": run.data.model_copy(update={"queries": queries}),
            "attempts": [AttemptFacts(term=1, seconds={"train": 30.0, "evaluate": 90.0}, at="2026-01-01T00:00:00")],
        }
    )
    page = page_of(
        [Measured(task="nlrx", model="m", seed=0, report=build_report(taught), seconds=120, has_teacher=True)]
    )
    assert ", with a teacher" in page
    assert "and 240 queries that the base model with the full prompt answered" in page
    assert "Did the teacher's answers help, beyond plain fine-tuning on the 16 written answers? " in page
    assert "Wall time: 2 min, of which evaluate 75 %, train 25 %." in page


@pytest.mark.parametrize("has_teacher", [False, True])
@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_jobs_are_valid(task: Task, has_teacher: bool, tmp_path: Path) -> None:
    job = job_of(
        task,
        name=_job_name(f"{task.name}-seed-1-Some_Model.v2"),
        model=Path("/model"),
        seed=1,
        train=32,
        held_out=8,
        device="CPU",
        dtype="bfloat16",
        queries=tmp_path / "queries.jsonl" if has_teacher else None,
    )
    spec = parse_job(job).spec
    assert spec.training.seed == 1
    assert (spec.data.queries is not None) == has_teacher
    assert spec.data.train is not None and spec.data.train.limit == (16 if has_teacher else 32)


def test_runs_of_other_sizes_or_jobs_are_no_seeds_of_each_other() -> None:
    report = build_report(facts())
    small = report.model_copy(
        update={"data": report.data.model_copy(update={"eval": report.data.eval.model_copy(update={"rows": 20})})}
    )
    runs = [
        Measured(task="nlrx", model="m", seed=0, report=report, seconds=1, job="a"),
        Measured(task="nlrx", model="m", seed=0, report=small, seconds=1, job="a"),
        Measured(task="nlrx", model="m", seed=0, report=report, seconds=1, job="b"),
    ]
    page = page_of(runs)
    assert page.count("## m, NL-RX") == 3
    assert "seeds" not in page.split("## m, NL-RX", 1)[1]


def test_a_run_that_was_recorded_is_on_the_page_with_those_of_other_machines(tmp_path: Path) -> None:
    report = build_report(facts())
    run = Measured(task="nlrx", model="m", seed=0, report=report, seconds=3600, dtype="bfloat16", machine="2 cores")
    other = replace(run, seed=1, machine="16 cores")
    file = tmp_path / "real.json"
    assert read_records(file) == []
    write_records(file, [run])
    assert merge(read_records(file), []) == [run_without_texts(run)]
    assert not any(example.query in file.read_text() for example in report.examples.lost)
    measured_again = replace(run, seconds=7200)
    runs = merge(read_records(file), [other, measured_again])
    assert [(each.seed, each.seconds) for each in runs] == [(0, 7200), (1, 3600)]
    assert "Base weights in bfloat16. The runs took 2.0, 1.0 h on " in page_of(runs)
    assert "(16 cores; 2 cores)" in page_of(runs)


def test_a_remark_on_the_times_of_a_run_is_beside_them() -> None:
    wall_time = WallTime(seconds=60, phases={"train": 60}, attempts=1)
    report = build_report(facts()).model_copy(update={"wall_time": wall_time})
    run = Measured(task="nlrx", model="m", seed=0, report=report, seconds=60, remark="on a busy machine")
    (line,) = [each for each in page_of([run]).splitlines() if each.startswith("- Wall time")]
    assert line.endswith("100 % (on a busy machine).")


def run_without_texts(run: Measured) -> Measured:
    examples = run.report.examples.model_copy(update={"gained": [], "lost": []})
    return replace(run, report=run.report.model_copy(update={"examples": examples}))


def test_a_digest_tells_jobs_and_files_apart_and_no_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["nlrx"]
    monkeypatch.setattr(tasks, "DATA", tmp_path)
    (tmp_path / task.folder).mkdir()
    for name in ("train", "dev"):
        (tmp_path / task.folder / f"{name}.jsonl").write_text("{}\n")
    model = write_tiny_model(tmp_path / "My_Model")

    def digest(**changes: Any) -> str:
        settings = {"name": "a", "model": model, "seed": 0, "train": 8, "held_out": 8, "device": "CPU"}
        return job_digest(job_of(task, **settings | {"dtype": "bfloat16"} | changes), model)

    assert digest() == digest(seed=2) == digest(name="b")
    assert digest() != digest(dtype="float32")
    assert digest() != digest(train=9)
    first = digest()
    (tmp_path / task.folder / "train.jsonl").write_text("{} \n")
    assert digest() != first
    first = digest()
    (model / "tokenizer.json").write_text("{}")
    assert digest() != first


def test_every_package_has_a_digest() -> None:
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line and " --hash=sha256:" in line for line in lines)
    assert {line.partition("==")[0] for line in lines} == {name for s in SOURCES.values() for name in s.packages}
