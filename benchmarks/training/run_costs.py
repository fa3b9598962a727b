"""Measures what a run costs besides its steps: stage changes, checkpoints and starts of new processes.

The usual way to train in stages is a script that is started once per stage. A PromptIntern run stays in one process,
and when a stage ends, the prompts of the next stage are ready. Runs that store their files on this machine's disk take
turns with runs that store them on a real S3 server. All runs save a checkpoint every second. A run on S3 is stopped in
its second-to-last stage, and a new process resumes it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.preprocess import EXAMPLE, TEMPLATE, rows_of
from benchmarks.training.material import Shape, build_model
from benchmarks.training.processes import OUR_SPINS, SPINS, say

_ROWS, _STAGES = 640, 4
_STOP_AFTER = 2
"""The number of steps of the second-to-last stage after which a run on S3 is stopped."""


@dataclass(frozen=True, kw_only=True)
class RunCosts:
    """The costs of the runs, with times in seconds.

    Attributes:
        stage: The median training time of a stage.
        change: The median time from the end of a stage's evaluation until the first step of the next stage begins.
        share: The largest ratio of the time of a stage change to the training time of the next stage.
        s3_change: The same as ``change``, with storage on the S3 server.
        s3_share: The same as ``share``, with storage on the S3 server.
        start: The median time from the start of a new process that resumes a run until its first step begins.
        save: The mean time for which a checkpoint pauses training.
        stored: The median time from the end of a step until its checkpoint is stored; training continues meanwhile.
        s3_stored: The same as ``stored``, with storage on the S3 server.
        step: The mean time of a training step.
        every: The default time between checkpoints.
        local: The median number of examples per second in the first stage, with storage on this machine.
        s3: The same as ``local``, with storage on the S3 server.
    """

    stage: float
    change: float
    share: float
    s3_change: float
    s3_share: float
    start: float
    save: float
    stored: float
    s3_stored: float
    step: float
    every: int
    local: float
    s3: float


def run_costs(tokenizer: Path, shape: Shape, *, data: Path | None, repeats: int) -> RunCosts:
    """Run ``repeats`` runs on disk and ``repeats`` runs on S3, each in new processes, and return their costs."""
    from promptintern_api.compute import CheckpointSpec

    runs: list[list[Event]] = []
    on_s3: list[list[Event]] = []
    first: dict[str, list[float]] = {"local": [], "s3": []}
    starts = []
    with tempfile.TemporaryDirectory() as name, _s3() as (storage, environment):
        folder = Path(name)
        _write_inputs(folder, tokenizer, shape, data)
        for repeat in range(repeats):
            say(f"round {repeat + 1} of {repeats}: a run of {_STAGES} stages with its storage here")
            runs.append(_process(folder, repeat, {"uri": f"file://{folder}/runs"}, {}, stop_after=0))
            say(f"round {repeat + 1} of {repeats}: a run on S3, stopped in its last stage but one, and continued")
            on_s3.append(_process(folder, repeat, storage, environment, stop_after=_STOP_AFTER))
            began = time.time()
            continued = _process(folder, repeat, storage, environment, stop_after=_STOP_AFTER + 1)
            starts.append(_first(continued, "TrainingBegan")["at"] - began)
            first["local"].append(_first(runs[-1], "Trained")["examples"])
            first["s3"].append(_first(on_s3[-1], "Trained")["examples"])
    trained = [event for run in runs for event in run if event["event"] == "Trained"]
    changes, s3_changes = ([change for run in each for change in _changes(run)] for each in (runs, on_s3))
    assert len(changes) > len(s3_changes) > 0, "no change follows a stage that was trained to its end"
    steps = sum(1 for run in runs for event in run if event["event"] == "Stepped")
    saved = sum(1 for run in runs for event in run if event["event"] == "CheckpointSaved")
    return RunCosts(
        stage=statistics.median(event["seconds"] for event in trained),
        change=statistics.median(gap for gap, _ in changes),
        share=max(gap / seconds for gap, seconds in changes),
        s3_change=statistics.median(gap for gap, _ in s3_changes),
        s3_share=max(gap / seconds for gap, seconds in s3_changes),
        start=statistics.median(starts),
        save=sum(event["save"] for event in trained) / saved,
        stored=statistics.median(time for run in runs for time in _stored(run)),
        s3_stored=statistics.median(time for run in on_s3 for time in _stored(run)),
        step=sum(event["seconds"] for event in trained) / steps,
        every=CheckpointSpec().every_seconds,
        local=statistics.median(first["local"]),
        s3=statistics.median(first["s3"]),
    )


Event = dict[str, Any]


def _first(run: Sequence[Event], kind: str) -> Event:
    return next(event for event in run if event["event"] == kind)


def _changes(run: Sequence[Event]) -> Iterator[tuple[float, float]]:
    """Yield, for each stage but the first, the time between stages and the training time of the stage, in seconds.

    The time between stages is the time from the previous stage's last answer to the first step. The event ``Trained``
    has the training time since the first step.
    """
    answered = ended = None
    for event in run:
        if event["event"] == "Answered":
            answered = event["at"]
        elif event["event"] == "TrainingBegan":
            ended = answered
        elif event["event"] == "Trained" and event["name"] != f"stage 1/{_STAGES}":
            assert ended is not None
            yield event["at"] - event["seconds"] - ended, event["seconds"]


def _stored(run: Sequence[Event]) -> Iterator[float]:
    """Yield, for each checkpoint of ``run``, the seconds from the end of its step until it is stored."""
    stepped: dict[tuple[int, int], float] = {}
    for event in run:
        if event["event"] == "Stepped":
            stepped[event["stage"], event["step"]] = event["at"]
        elif event["event"] == "CheckpointSaved":
            yield event["at"] - stepped[event["stage"], event["step"]]


def _write_inputs(folder: Path, tokenizer: Path, shape: Shape, data: Path | None) -> None:
    from transformers import AutoTokenizer

    rows = rows_of(data, _ROWS + 16)
    for name, part in (("train", rows[:_ROWS]), ("eval", rows[_ROWS:])):
        lines = [json.dumps({"query": row.query, "answer": row.answer}) for row in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    model = build_model(shape).cpu()
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder / "model")


def _process(
    folder: Path, number: int, storage: dict[str, str], environment: dict[str, str], *, stop_after: int
) -> list[Event]:
    job = {
        "apiVersion": "promptintern.dev/v1alpha1",
        "kind": "PromptInternJob",
        "metadata": {"name": f"costs-{number}"},
        "spec": {
            "model": {"uri": str(folder / "model"), "dtype": "float32"},
            "data": {"train": {"uri": "train.jsonl"}, "eval": {"uri": "eval.jsonl"}, "onLeak": "Drop"},
            "prompt": {"template": TEMPLATE, "exampleTemplate": EXAMPLE, "protect": ["\nCommand:"]},
            "schedule": {"stages": _STAGES, "shots": 5, "finalRate": 0},
            "training": {"lora": {"r": 32, "alpha": 64}, "epochsPerStage": 1, "tokensPerBatch": 16384},
            # Direct is left out, because it is not a stage.
            "evaluation": {
                "arms": ["FullPrompt", "QueryOnly"],
                "stageRows": 4,
                "maxNewTokens": 8,
                "latencyQueries": 0,
                "gate": {"maxDrop": 1},
            },
            "checkpoint": {"everySeconds": 1},
            "storage": storage,
        },
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training.run_events", str(path), str(stop_after)],
        env=os.environ | {SPINS: OUR_SPINS} | environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def _s3() -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Start an S3 server, and yield a storage spec for it and environment variables with its credentials."""
    from tests.cluster.s3 import REGION, S3Server

    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder))
        server.start()
        try:
            server.create_bucket("runs")
            yield {"uri": "s3://runs/costs", "endpoint": server.url, "region": REGION}, dict(server.environment)
        finally:
            server.stop()
