"""What is true of a job of examples/quickstart.yaml that succeeded, whoever trained it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from promptintern.sample import sample_rows

from tests.e2e.tenant import Row, Team

_PROMPTINTERN = (sys.executable, "-m", "promptintern.cli.app")


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
    wanted = {"job.json", "model.json", "epochs/1.json", "adapter/manifest.json", "adapter/adapter_model.safetensors"}
    wanted |= {"report/report.json", "report/report.html"} | {f"stages/{stage}/manifest.json" for stage in range(4)}
    assert wanted <= names
    logs = [each for each in names if each.startswith(f"logs/{name}-a1/job-driver-")]
    assert logs
    assert b"QueryOnly" in team.files.cat(f"{folder}/{logs[0]}")


def check_answers(team: Team, name: str, folder: Path) -> None:
    """`promptintern fetch` brings adapter and report, and the adapter answers queries alone."""
    subprocess.run(
        [*_PROMPTINTERN, "fetch", name, str(folder), "--namespace", team.namespace],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder.parent), **team.environment()},
        check=True,
    )
    assert (folder / "report" / "report.html").exists()
    rows = sample_rows("sample://formulas/eval?world=1&rows=40")
    answered = subprocess.run(
        [*_PROMPTINTERN, "predict", str(folder / "adapter")],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder.parent)},
        input="".join(f"{row['query']}\n" for row in rows),
        check=True,
        capture_output=True,
        text=True,
    )
    right = sum(answer == row["answer"] for answer, row in zip(answered.stdout.splitlines(), rows, strict=True))
    assert right >= 36, "the report says 98 % and more"
