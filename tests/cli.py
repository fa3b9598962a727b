"""Runs the command line, and captures its output and exit code."""

import json
import os
import subprocess
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


_LISTING_MODULES = """
import json, sys
from promptintern.cli.app import main
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def imported_modules(*arguments: str | Path, **environment: str) -> tuple[str, set[str]]:
    """Run ``promptintern ARGUMENTS`` in a process of its own. Return its output and the modules that it imported."""
    command = [sys.executable, "-c", _LISTING_MODULES, *map(str, arguments)]
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | environment, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, set(json.loads(ran.stderr.splitlines()[-1]))


def packages(modules: set[str]) -> set[str]:
    """Return the names of the top-level packages of ``modules``."""
    return {module.partition(".")[0] for module in modules}


def write_job(folder: Path, job: dict[str, Any]) -> Path:
    """Write ``job`` as YAML in ``folder``, and return its path."""
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, allow_unicode=True))
    return path
