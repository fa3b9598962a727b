"""``promptintern run`` as a process that tests kill at a chosen moment."""

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
"""A function of the run's folder and the seconds since its first checkpoint or commit that is true at the moment."""


def stage_boundary(folder: Path, _seconds: float) -> bool:
    """Whether the first stage has been committed."""
    return (folder / "stages/0/manifest.json").exists()


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A finished process."""

    code: int
    text: str
    """Standard output and standard error."""


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
    """A tiny job's ``prompt`` with a template so long that computing the shared prefix once saves time."""
    rule = "Write the sum as code, with both numbers in the order in which they are asked for. "
    return {**prompt, "template": times * rule + prompt["template"]}


def start(job: Path, workdir: Path | None, *arguments: str, **environment: str) -> WarmProcess:
    """Start a run in a warm process, which always computes on one thread, whatever ``environment`` contains."""
    return WarmProcess(_run(job, workdir, arguments), _environment(environment))


def start_command(job: Path, workdir: Path | None, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start a run with the command that a user types."""
    return guard.start(
        [sys.executable, "-m", "promptintern.cli.app", *_run(job, workdir, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(environment),
    )


def finish(process: "WarmProcess | subprocess.Popen[str]", seconds: float = 300) -> Ended:
    """Wait for the end of the process."""
    text, _ = process.communicate(timeout=seconds)
    assert process.returncode is not None
    return Ended(code=process.returncode, text=text)


def run_to_end(job: Path, workdir: Path | None, *arguments: str, **environment: str) -> Ended:
    """Run a job to its end in a warm process."""
    return finish(start(job, workdir, *arguments, **environment))


def run_command(job: Path, workdir: Path | None, *arguments: str, **environment: str) -> Ended:
    """Run a job to its end with the command that a user types."""
    return finish(start_command(job, workdir, *arguments, **environment))


def _run(job: Path, workdir: Path | None, arguments: Sequence[str]) -> list[str]:
    return ["run", str(job), *(["--workdir", str(workdir)] if workdir else []), *arguments]


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def stop_at(
    process: "WarmProcess | subprocess.Popen[str]", workdir: Path, moment: Moment, number: signal.Signals
) -> bool:
    """Send the signal ``number`` as soon as ``moment`` is true; return False if the process ended before."""
    start: float | None = None
    while process.poll() is None:
        folder = run_folder(workdir)
        if folder is not None and start is None and any(folder.glob("stages/*/*")):
            start = time.monotonic()
        if folder is not None and moment(folder, time.monotonic() - start if start else 0.0):
            process.send_signal(number)
            return True
        time.sleep(0.001)
    return False


def run_folder(workdir: Path) -> Path | None:
    """The folder of the only run in ``workdir``, or None before it exists."""
    return next(iter(workdir.glob("*/*")), None)


def adapters(workdir: Path) -> dict[str, bytes]:
    """The bytes of the committed adapters by stage, and of the final one."""
    folder = run_folder(workdir)
    assert folder is not None
    weights = {"final": (folder / "adapter/adapter_model.safetensors").read_bytes()}
    for manifest in folder.glob("stages/*/manifest.json"):
        term = json.loads(manifest.read_text())["term"]
        file = manifest.parent / f"t{term}/adapter/adapter_model.safetensors"
        weights[manifest.parent.name] = file.read_bytes()
    return weights


def trajectories(workdir: Path, *names: str) -> dict[str, dict[str, list[float]]]:
    """The values of every step for each of ``names``, by stage; loss and gradient norm by default."""
    folder = run_folder(workdir)
    assert folder is not None
    by_stage = {}
    for manifest in sorted(folder.glob("stages/*/manifest.json")):
        term = json.loads(manifest.read_text())["term"]
        trajectory = json.loads((manifest.parent / f"t{term}/adapter/trajectory.json").read_text())
        by_stage[manifest.parent.name] = {name: trajectory[name] for name in names or ("loss", "grad_norm")}
    return by_stage
