"""Runs the command line in this process and captures its output and exit code."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml


@dataclass(frozen=True, kw_only=True)
class Ran:
    """The result of a command."""

    code: int
    out: str
    err: str


def promptintern(*arguments: str | Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Run ``promptintern ARGUMENTS`` through its real entry point."""
    from promptintern.cli.app import main

    monkeypatch.setattr(sys, "argv", ["promptintern", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    captured = capsys.readouterr()
    return Ran(code=code, out=captured.out, err=captured.err)


def write_job(folder: Path, job: dict[str, Any]) -> Path:
    """Write ``job`` as YAML in ``folder``, and return its path."""
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, allow_unicode=True))
    return path
