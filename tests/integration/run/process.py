"""``promptintern run`` as a process that can be killed at a chosen moment."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import guard
from tests.integration.run.warm import WarmProcess
from tests.tiny import tiny_job

Moment = Callable[[Path, float], bool]
"""Returns whether to act now, given the run's folder and the seconds since its first checkpoint or commit."""


def stage_boundary(folder: Path, _seconds: float) -> bool:
    """Return whether the first stage is committed."""
    return (folder / "stages/0/manifest.json").exists()


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A finished process."""

    code: int
    text: str
    """Standard output and error."""


def write_job(
    folder: Path, *, epochs: int = 40, arms: Sequence[str] = ("FullPrompt", "QueryOnly"), **spec: Any
) -> Path:
    """Write a job whose stages take a few seconds on a tiny model, with a checkpoint every second."""
    job = tiny_job(folder, **spec)
    job["spec"]["training"] |= {"epochsPerStage": epochs}
    job["spec"]["evaluation"] |= {"maxNewTokens": 4, "stageRows": 2, "latencyQueries": 0, "arms": list(arms)}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def with_rule(prompt: Mapping[str, Any], times: int) -> dict[str, Any]:
    """Return a tiny job's ``prompt`` with a template long enough for a shared prefix to pay."""
    rule = "Write the sum as code, with both numbers in the order in which they are asked for. "
    return {**prompt, "template": times * rule + prompt["template"]}


def start(job: Path, workdir: Path | None, *arguments: str, **environment: str) -> WarmProcess:
    """Start a run in a warm process, which always has one thread, whatever ``environment`` says."""
    return WarmProcess(_run(job, workdir, arguments), _environment(environment))


def start_command(job: Path, workdir: Path | None, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start a run as a user does."""
    return guard.start(
        [sys.executable, "-m", "promptintern.cli.app", *_run(job, workdir, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(environment),
    )


def finish(process: "WarmProcess | subprocess.Popen[str]", seconds: float = 300) -> Ended:
    """Wait until the process has ended."""
    text, _ = process.communicate(timeout=seconds)
    assert process.returncode is not None
    return Ended(code=process.returncode, text=text)


def report(workdir: Path) -> dict[str, Any]:
    """Return the report.json of the only run below ``workdir``."""
    (path,) = workdir.glob("*/*/report/report.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def run_to_end(job: Path, workdir: Path | None, *arguments: str, **environment: str) -> Ended:
    """Complete a run in a warm process."""
    return finish(start(job, workdir, *arguments, **environment))


def run_command(job: Path, workdir: Path | None, *arguments: str, **environment: str) -> Ended:
    """Complete a run as a user starts it."""
    return finish(start_command(job, workdir, *arguments, **environment))


def _run(job: Path, workdir: Path | None, arguments: Sequence[str]) -> list[str]:
    return ["run", str(job), *(["--workdir", str(workdir)] if workdir else []), *arguments]


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def stop_at(
    process: "WarmProcess | subprocess.Popen[str]", workdir: Path, moment: Moment, number: signal.Signals
) -> bool:
    """Send ``number`` as soon as ``moment`` is true. Return False if the process ended before."""
    began: float | None = None
    while process.poll() is None:
        folder = run_folder(workdir)
        if folder is not None and began is None and any(folder.glob("stages/*/*")):
            began = time.monotonic()
        if folder is not None and moment(folder, time.monotonic() - began if began else 0.0):
            process.send_signal(number)
            return True
        time.sleep(0.001)
    return False


def run_folder(workdir: Path) -> Path | None:
    """Return the only run under ``workdir``, or None if it does not exist yet."""
    return next(iter(workdir.glob("*/*")), None)


def adapters(workdir: Path) -> dict[str, bytes]:
    """Return the files of the committed adapters by stage, and of the final one."""
    folder = run_folder(workdir)
    assert folder is not None
    files = {"final": (folder / "adapter/adapter_model.safetensors").read_bytes()}
    for manifest in folder.glob("stages/*/manifest.json"):
        term = json.loads(manifest.read_text())["term"]
        weights = manifest.parent / f"t{term}/adapter/adapter_model.safetensors"
        files[manifest.parent.name] = weights.read_bytes()
    return files


def trajectories(workdir: Path, *names: str) -> dict[str, dict[str, list[float]]]:
    """Return the named series of each stage, with a value per step; loss and gradient norm by default."""
    folder = run_folder(workdir)
    assert folder is not None
    series_by_stage = {}
    for manifest in sorted(folder.glob("stages/*/manifest.json")):
        term = json.loads(manifest.read_text())["term"]
        whole = json.loads((manifest.parent / f"t{term}/adapter/trajectory.json").read_text())
        series_by_stage[manifest.parent.name] = {name: whole[name] for name in names or ("loss", "grad_norm")}
    return series_by_stage
