"""What must hold for every job of examples/quickstart.yaml that succeeded."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from promptintern.sample import sample_rows

from tests.documented import documented_questions
from tests.e2e.tenant import Row, Team
from tests.e2e.user import Shell


def check_progress(team: Team, name: str, rows: Sequence[Row]) -> None:
    """Check that `kubectl get pij` showed the job's progress, and ended at what the status records.

    How many stages the rows show depends on how often they were read: a fast machine trains several
    stages between two reads. So this only checks what every sequence of reads must show.
    """
    phases = list(dict.fromkeys(row.phase for row in rows))
    assert phases[-3:] == ["Starting", "Training", "Succeeded"], rows
    assert any(row.phase == "Training" and row.stage != "<none>" for row in rows), rows
    stages = [row.stage for row in rows if row.stage != "<none>"]
    assert stages == sorted(stages), rows
    assert stages[-1] == "4/4", rows
    # In the end, the tokens are those of the held-out rows, which are a little longer than the training rows.
    tokens = [float(row.tokens) for row in rows if row.phase == "Training" and row.tokens != "<none>"]
    assert tokens == sorted(tokens, reverse=True), rows
    records = team.status(name)["training"]["stages"]
    result = team.status(name)["training"]["result"]
    assert float(rows[-1].tokens) == pytest.approx(result["tokensAfter"], abs=0.1)
    assert rows[-1].score == f"{result['score']:.3f} [{result['scoreLow']:.3f}, {result['scoreHigh']:.3f}]"
    assert team.condition(name, "Internalized")["reason"] == result["verdict"] == team.status(name)["verdict"]
    assert records[-1]["promptTokens"] < 0.1 * records[0]["promptTokens"], records


def check_bucket(team: Team, name: str) -> None:
    """Check that adapter, manifests, report and log are on the S3 server."""
    folder = team.run_folder(name)
    names = {path.removeprefix(f"{folder}/") for path in team.files.find(folder)}
    expected = {"job.json", "model.json", "terms/1.json", "adapter/manifest.json", "adapter/adapter_model.safetensors"}
    expected |= {"report/report.json", "report/report.html"} | {f"stages/{stage}/manifest.json" for stage in range(4)}
    assert expected <= names
    logs = [path for path in names if path.startswith(f"logs/{name}-a1/job-driver-")]
    assert logs
    assert b"QueryOnly" in team.files.cat(f"{folder}/{logs[0]}")


def check_answers(team: Team, name: str, folder: Path) -> None:
    """Check that `promptintern fetch` downloads adapter and report, and that the adapter answers queries alone."""
    shell = Shell(team, folder.parent)
    shell.fetch(name, folder)
    assert (folder / "report" / "report.html").exists()
    held_out = sample_rows("sample://formulas/eval?world=1&rows=40")
    answers = shell.predict(folder / "adapter", [row["query"] for row in held_out])
    correct = sum(answer == row["answer"] for answer, row in zip(answers, held_out, strict=True))
    assert correct >= 36, "the report has an exact match of 98 % or more"
    documented = {question.query: question.answer for question in documented_questions() if question.answer}
    assert shell.predict(folder / "adapter", [*documented]) == [*documented.values()]
