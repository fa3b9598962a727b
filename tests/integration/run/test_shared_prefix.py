"""The shared prefix, computed once per step: the trajectory is that of unpacked rows, with one worker and with two."""

from pathlib import Path

import pytest

from tests.integration.run.process import run_command, run_to_end, trajectories, with_rule, write_job
from tests.integration.run.reference import check_same
from tests.tiny import tiny_job

FOUR_ROWS_A_STEP = ["--set", "training.tokensPerBatch=4096"]
SMALL_PACKS = ["--set", "training.tokensPerPack=16"]
"""Each row is a pack, so that rows share nothing but the shared prefix."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    return write_job(folder, epochs=2, prompt=with_rule(tiny_job(folder)["spec"]["prompt"], 3))


@pytest.fixture(scope="module")
def unpacked(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the runs folder of a run without packing."""
    workdir = tmp_path_factory.mktemp("unpacked")
    ended = run_to_end(job, workdir, *FOUR_ROWS_A_STEP, "--set", "training.packing=Never")
    assert ended.code == 0, ended.text
    return workdir


@pytest.mark.parametrize("workers", [1, 2])
def test_the_trajectory_is_the_same(workers: int, job: Path, unpacked: Path, tmp_path: Path) -> None:
    run, more = (run_to_end, []) if workers == 1 else (run_command, ["--workers", str(workers)])
    ended = run(job, tmp_path, *FOUR_ROWS_A_STEP, *SMALL_PACKS, *more)
    assert ended.code == 0, ended.text
    check_same(trajectories(tmp_path), trajectories(unpacked))
    assert computed(tmp_path) < 0.8 * computed(unpacked)


def computed(workdir: Path) -> float:
    """Return the number of tokens that went through the model in the first stage."""
    return sum(trajectories(workdir, "computed")["0"]["computed"])
