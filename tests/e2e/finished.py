"""What is true of a job of examples/quickstart.yaml that succeeded, whoever trained it."""

from collections.abc import Sequence
from pathlib import Path

from promptintern.sample import sample_rows

from tests.e2e.tenant import Row, Team
from tests.e2e.user import Shell


def check_seen(seen: Sequence[Row]) -> None:
    """`kubectl get pij` showed how it went on."""
    phases = list(dict.fromkeys(row.phase for row in seen))
    assert phases[-3:] == ["Starting", "Training", "Succeeded"], seen
    stages = [row.stage for row in seen if row.stage != "<none>"]
    assert len(set(stages)) >= 2, seen
    assert stages[-1] == "4/4"
    tokens = [float(row.tokens) for row in seen if row.tokens != "<none>"]
    assert tokens[-1] < 0.1 * tokens[0]


def check_bucket(team: Team, name: str) -> None:
    """Adapter, manifests, report and log are in the S3 server."""
    folder = team.run_folder(name)
    names = {path.removeprefix(f"{folder}/") for path in team.files.find(folder)}
    wanted = {"job.json", "model.json", "terms/1.json", "adapter/manifest.json", "adapter/adapter_model.safetensors"}
    wanted |= {"report/report.json", "report/report.html"} | {f"stages/{stage}/manifest.json" for stage in range(4)}
    assert wanted <= names
    logs = [each for each in names if each.startswith(f"logs/{name}-a1/job-driver-")]
    assert logs
    assert b"QueryOnly" in team.files.cat(f"{folder}/{logs[0]}")


def check_answers(team: Team, name: str, folder: Path) -> None:
    """`promptintern fetch` brings adapter and report, and the adapter answers queries alone."""
    shell = Shell(team, folder.parent)
    shell.fetch(name, folder)
    assert (folder / "report" / "report.html").exists()
    rows = sample_rows("sample://formulas/eval?world=1&rows=40")
    answers = shell.predict(folder / "adapter", [row["query"] for row in rows])
    right = sum(answer == row["answer"] for answer, row in zip(answers, rows, strict=True))
    assert right >= 36, "the report says 98 % and more"
