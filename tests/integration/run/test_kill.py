"""A run that was killed at any moment and continued ends with the same adapter, bit for bit."""

import json
import os
import re
import signal
from datetime import datetime
from pathlib import Path

import pytest

from tests.integration.run.lives import live
from tests.integration.run.process import (
    Moment,
    adapters,
    finish,
    run_to_end,
    stage_boundary,
    start,
    stop_at,
    write_job,
)

THOROUGH = "PROMPTINTERN_KILL_POINTS" in os.environ
"""Whether to kill the Direct arm too, as `make kill` does, which also kills lives at random moments (see `lives`)."""


def mid_checkpoint(folder: Path, _seconds: float) -> bool:
    return any(
        any(step.iterdir()) and not (step / "manifest.json").exists()
        for step in folder.glob("stages/*/t*/checkpoints/step-*")
    )


def mid_commit(folder: Path, _seconds: float) -> bool:
    return any(
        not (stage / "manifest.json").exists() and any(stage.glob("t*/adapter/*")) for stage in folder.glob("stages/1")
    )


def direct_arm(folder: Path, _seconds: float) -> bool:
    return any(folder.glob("stages/direct/t*/checkpoints/*/manifest.json"))


def after(seconds: float) -> Moment:
    return lambda _folder, passed: passed >= seconds


MOMENTS: dict[str, Moment] = {
    "mid-checkpoint": mid_checkpoint,
    "mid-commit": mid_commit,
    "stage boundary": stage_boundary,
    **({"Direct arm": direct_arm} if THOROUGH else {}),
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms = ("FullPrompt", "QueryOnly", "Direct") if THOROUGH else ("FullPrompt", "QueryOnly")
    return write_job(tmp_path_factory.mktemp("job"), arms=arms)


@pytest.fixture(scope="module")
def undisturbed(job: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    workdir = tmp_path_factory.mktemp("undisturbed")
    ended = run_to_end(job, workdir)
    assert ended.code == 0, ended.text
    return adapters(workdir)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_continued_is_bit_identical(
    moment: str, job: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    process = start(job, tmp_path)
    killed = stop_at(process, tmp_path, MOMENTS[moment], signal.SIGKILL)
    finish(process)
    assert killed, "the run ended before the moment came"
    ended = run_to_end(job, tmp_path)
    assert ended.code == 0, ended.text
    assert adapters(tmp_path) == undisturbed


def test_killed_at_random_moments(job: Path, undisturbed: dict[str, bytes]) -> None:
    life = live(20261123, job, undisturbed, seconds=3.0)
    assert life.kills
    assert life.problem is None


def test_killed_again_and_again(job: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    for seconds in (0.5, 2.0):
        process = start(job, tmp_path)
        stop_at(process, tmp_path, after(seconds), signal.SIGKILL)
        finish(process)
    ended = run_to_end(job, tmp_path)
    assert ended.code == 0, ended.text
    assert adapters(tmp_path) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_planned_stop_saves_first_and_loses_no_step(
    number: signal.Signals, job: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    process = start(job, tmp_path)
    assert stop_at(process, tmp_path, after(1.0), number)
    stopped = finish(process)
    assert stopped.code == 128 + number, stopped.text
    saved = re.search(r"saved at (stage \d/3), step (\d+) of", stopped.text)
    assert saved, stopped.text
    stage = tmp_path / next(iter(tmp_path.glob("*/*/stages"))).relative_to(tmp_path) / str(int(saved[1][6]) - 1)
    began = {_started(manifest) for manifest in stage.glob("t*/checkpoints/*/manifest.json")}
    ended = run_to_end(job, tmp_path)
    assert ended.code == 0, ended.text
    assert f"{saved[1]} continues after step {saved[2]}" in ended.text
    assert adapters(tmp_path) == undisturbed
    assert began == {_started(stage / "manifest.json")}, "a stage began when its first step was done"


def _started(manifest: Path) -> datetime:
    return datetime.fromisoformat(json.loads(manifest.read_text())["meta"]["startedAt"])


def test_a_second_run_takes_over_and_the_first_one_ends(
    job: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    first = start(job, tmp_path)
    assert stop_at(first, tmp_path, after(0.0), signal.SIGCONT)  # it is training now
    second = run_to_end(job, tmp_path)
    assert second.code == 0, second.text
    assert adapters(tmp_path) == undisturbed
    fenced = finish(first)
    assert fenced.code == 1, fenced.text
    assert "term 2" in fenced.text
