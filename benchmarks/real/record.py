"""The finished runs: what is recorded of each, in docs/real.json, so that later goes add to it on any machine."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from promptintern.report.schema import Report, report_from_json


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A finished run."""

    task: str
    model: str
    seed: int
    report: Report
    seconds: float
    """The wall time of the run in seconds, over all goes."""
    has_teacher: bool = False
    """Whether the base model with the full prompt answered most of the training queries."""
    job: str = ""
    """A digest of the job without its seed and its arms."""
    dtype: str = "float32"
    """The type of the base weights."""
    machine: str = ""
    """The machine and the versions of the last go."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from; empty for a folder of the user."""

    remark: str = ""
    """What readers must know about the times, such as that the machine was shared; empty if nothing."""

    @property
    def key(self) -> tuple[object, ...]:
        """What tells this run from all others that are recorded."""
        return self.task, self.model, self.has_teacher, self.job, self.seed


def read_records(file: Path) -> list[Measured]:
    """Return the runs that ``write_records`` wrote to ``file``; none if there is no such file."""
    documents: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    return [
        Measured(**document | {"report": report_from_json(json.dumps(document["report"]))}) for document in documents
    ]


def write_records(file: Path, runs: Iterable[Measured]) -> None:
    """Write ``runs`` to ``file``, without the texts that the models wrote."""
    documents = []
    for run in runs:
        report = json.loads(run.report.model_dump_json(by_alias=True, exclude_none=True))
        report["examples"] |= {"gained": [], "lost": []}
        documents.append(asdict(run) | {"report": report})
    file.write_text(json.dumps(documents, indent=1) + "\n")


def merge(recorded: Sequence[Measured], measured: Sequence[Measured]) -> list[Measured]:
    """Return all runs, in order. A run that was measured takes the place of its record."""
    runs = {run.key: run for run in (*recorded, *measured)}
    return sorted(runs.values(), key=lambda run: (run.model, run.task, run.has_teacher, run.job, run.seed))


def machine() -> str:
    """Return what this machine is, and the versions of the libraries."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return f"{os.cpu_count()} cores ({platform.machine()}), {gpu}, Python {platform.python_version()}, {versions}"
