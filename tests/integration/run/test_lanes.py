"""With two lanes the trajectory is that of unpacked rows, and a resumed run ends with the same adapter, bit for bit."""

import signal
from pathlib import Path

import pytest

from tests.integration.run.process import (
    adapters,
    finish,
    run_command,
    run_to_end,
    stage_boundary,
    start_command,
    stop_at,
    trajectories,
    with_rule,
    write_job,
)
from tests.integration.run.reference import check_same
from tests.tiny import tiny_job

TWO_THREADS = {"OMP_NUM_THREADS": "2"}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    tiny = tiny_job(folder, rows=64)["spec"]
    return write_job(
        folder,
        epochs=8,
        data=tiny["data"],
        prompt=with_rule(tiny["prompt"], 4),
        training={**tiny["training"], "rowsPerBatch": 32, "tokensPerBatch": 32768},
    )


@pytest.fixture(scope="module")
def undisturbed(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the runs folder of a run with two threads."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    ended = run_command(job, workdir, **TWO_THREADS)
    assert ended.code == 0, ended.text
    assert "2 packs at a time" in ended.text
    return workdir


def test_the_trajectory_is_the_same(job: Path, undisturbed: Path, tmp_path: Path) -> None:
    ended = run_to_end(job, tmp_path, "--set", "training.packing=Never")
    assert ended.code == 0, ended.text
    assert "packs at a time" not in ended.text
    check_same(trajectories(undisturbed), trajectories(tmp_path))


def test_killed_and_resumed_is_bit_identical(job: Path, undisturbed: Path, tmp_path: Path) -> None:
    process = start_command(job, tmp_path, **TWO_THREADS)
    killed = stop_at(process, tmp_path, stage_boundary, signal.SIGKILL)
    finish(process)
    assert killed, "the run ended before the moment came"
    ended = run_command(job, tmp_path, **TWO_THREADS)
    assert ended.code == 0, ended.text
    assert adapters(tmp_path) == adapters(undisturbed)
