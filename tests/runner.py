"""Runs commands on one job in one folder, in this process, and reads what the run wrote."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli import Ran, promptintern, write_job


class Runner:
    """Runs commands on one job in one folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._capsys, self._monkeypatch = folder, capsys, monkeypatch

    def __call__(self, *arguments: str | Path) -> Ran:
        return promptintern(*arguments, capsys=self._capsys, monkeypatch=self._monkeypatch)

    def run(self, job: dict[str, Any], *arguments: str) -> Ran:
        return self("run", write_job(self.folder, job), "--workdir", self.folder / "runs", *arguments)

    @property
    def output(self) -> Path:
        """The folder of the only run."""
        return self.output_of("")

    def output_of(self, job: str) -> Path:
        """Return the folder of the only run of a job; the empty name stands for any job."""
        (run_folder,) = (self.folder / "runs").glob(f"*/{job}*")
        return run_folder

    def report(self, *, job: str = "") -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.output_of(job) / "report/report.json").read_text())
        return report

    def card_block(self, language: str) -> str:
        """Return the block in ``language`` of the model card of the run's adapter."""
        card = (self.output / "adapter/README.md").read_text()
        return card.split(f"```{language}\n")[1].partition("```")[0]

    def predictions(self, arm: str, *, job: str = "") -> list[str]:
        (document,) = self.output_of(job).glob(f"evaluation/{arm}/t*/document.json")
        answers: dict[str, Any] = json.loads(document.read_text())
        predictions: list[str] = answers["predictions"]
        return predictions

    def stages(self) -> dict[str, dict[str, Any]]:
        return {p.parent.name: json.loads(p.read_text()) for p in self.output.glob("stages/*/manifest.json")}
