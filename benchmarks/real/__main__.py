"""Runs the product on pretrained models and real tasks, and writes docs/real.md and docs/real.json.

    python -m benchmarks.real [--model DIR | --models NAME ...] [--tasks NAME ...] [--seeds N] [--device CPU]
        [--dtype float32] [--remark TEXT]

The models come from Python packages (`models.py`), or from any folder of safetensors. A run that was stopped goes on
where it was, and a finished one is not repeated, so the command can be given in several goes. docs/real.json records
each finished run, and a run that it records is only repeated with --again.
"""

import argparse
import copy
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from promptintern.models.fetch import ModelFolder, cache_root
from promptintern.report.schema import report_from_json

from benchmarks.real.models import SOURCES, model_folder, origin_of
from benchmarks.real.page import DOCS, write_page
from benchmarks.real.record import Measured, machine, merge, read_records, write_records
from benchmarks.real.tasks import DATA, TASKS, Task, job_of, write_queries

WORK = cache_root() / "real"
RECORDS = DOCS / "real.json"
_RUNS, _TIMES, _ABOUT = "runs", "seconds.json", "about.json"


def main() -> int:
    """Run what is missing, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(SOURCES), default=sorted(SOURCES))
    parser.add_argument("--model", type=Path, help="a folder of safetensors, in place of the models from packages")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=sorted(TASKS))
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0")
    parser.add_argument("--train", type=int, help="number of training rows (default: that of the task)")
    parser.add_argument("--held-out", type=int, help="number of held-out rows (default: that of the task)")
    parser.add_argument("--device", choices=("Auto", "CPU", "CUDA"), default="Auto")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="type of the base weights")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the runs")
    parser.add_argument("--again", action="store_true", help="repeat runs that docs/real.json records")
    parser.add_argument("--remark", default="", help="what readers must know about the times, such as a busy machine")
    parser.add_argument("--pages-only", action="store_true", help="write the pages from the finished runs")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"there are no rows in {DATA}", file=sys.stderr)
        return 2
    failed = 0
    if not options.pages_only:
        folders = (
            [options.model.resolve()] if options.model else [model_folder(SOURCES[name]) for name in options.models]
        )
        for folder in folders:
            for seed in range(options.seeds):
                for task in (TASKS[name] for name in options.tasks):
                    failed += run(task, folder, seed, options) != 0
            for task in (TASKS[name] for name in options.tasks):
                failed += run(task, folder, 0, options, has_teacher=True) != 0
    write(options.work.resolve())
    return 1 if failed else 0


def run(task: Task, model: Path, seed: int, options: argparse.Namespace, *, has_teacher: bool = False) -> int:
    """Run one job to its end, or go on with it, and return its exit code."""
    train, held_out = options.train or task.train, options.held_out or task.held_out
    kind = "teacher" if has_teacher else f"seed-{seed}"
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    queries = work / f"{task.name}-queries-{train}.jsonl" if has_teacher else None
    if queries is not None:
        write_queries(task, queries, train=train)
    job = job_of(
        task,
        name=_job_name(f"{task.name}-{kind}-{model.name}"),
        model=model,
        seed=seed,
        train=train,
        held_out=held_out,
        device=options.device,
        dtype=options.dtype,
        queries=queries,
    )
    digest = job_digest(job, model)
    place = work / f"{job['metadata']['name']}-{train}-{held_out}-{digest[:8]}"
    is_recorded = (task.name, model.name, has_teacher, digest, seed) in {each.key for each in read_records(RECORDS)}
    if list(place.glob(f"{_RUNS}/*/*/report/report.json")) or (is_recorded and not options.again):
        print(f"== {place.name}: finished before", flush=True)
        return 0
    place.mkdir(exist_ok=True)
    (place / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    about = {"task": task.name, "model": model.name, "seed": seed, "origin": origin_of(model)}
    about |= {
        "has_teacher": has_teacher,
        "job": digest,
        "dtype": options.dtype,
        "machine": machine(),
        "remark": options.remark,
    }
    (place / _ABOUT).write_text(json.dumps(about, indent=2))
    print(f"== {place.name}", flush=True)
    began = time.monotonic()
    program = Path(sys.executable).with_name("promptintern")
    command = [str(program), "run", str(place / "job.yaml"), "--workdir", str(place / _RUNS)]
    try:
        return subprocess.run(command, check=False, env={**os.environ, "PYTHONUNBUFFERED": "1"}).returncode
    finally:
        times = place / _TIMES
        seconds = json.loads(times.read_text()) if times.exists() else []
        times.write_text(json.dumps([*seconds, round(time.monotonic() - began, 1)]))


def job_digest(job: dict[str, Any], model: Path) -> str:
    """Return a digest of the files of model and data, and of all in ``job`` that the seeds of a section share."""
    shared: dict[str, Any] = copy.deepcopy(job["spec"])
    for source in (each for each in shared["data"].values() if isinstance(each, dict)):
        source["uri"] = hashlib.sha256(Path(source["uri"].removeprefix("file://")).read_bytes()).hexdigest()
    del shared["training"]["seed"], shared["evaluation"]["arms"], shared["model"]["uri"], shared["compute"]
    files = ModelFolder(uri=model.as_uri(), path=model).digest() if model.is_dir() else ""
    return hashlib.sha256(json.dumps([shared, files], sort_keys=True).encode()).hexdigest()


def _job_name(text: str) -> str:
    """Return ``text`` as a name that a job may have: at most 40 small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-")


def write(work: Path) -> None:
    """Write both pages from the runs that are recorded, and from the finished ones in ``work``."""
    runs = merge(read_records(RECORDS), collect(work))
    write_records(RECORDS, runs)
    write_page(runs)


def collect(work: Path) -> list[Measured]:
    """Return the finished runs in ``work``."""
    found = []
    for place in sorted(work.iterdir()):
        reports = list(place.glob(f"{_RUNS}/*/*/report/report.json"))
        if reports:
            about: dict[str, Any] = json.loads((place / _ABOUT).read_text())
            seconds = sum(json.loads((place / _TIMES).read_text()))
            found.append(Measured(report=report_from_json(reports[0].read_bytes()), seconds=seconds, **about))
    return found


if __name__ == "__main__":
    sys.exit(main())
