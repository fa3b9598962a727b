"""What all rows begin with, computed once a step: the trajectory is that of rows computed whole, on all workers."""

from pathlib import Path

import pytest

from tests.integration.run.process import run_command, run_to_end, trajectories, with_rule, write_job
from tests.integration.run.reference import check_same
from tests.tiny import tiny_job

FOUR_ROWS_A_STEP = ["--set", "training.tokensPerBatch=4096"]
APART = ["--set", "training.tokensPerPack=16"]
"""Every row in a pack of its own, so that nothing is shared but by a trunk."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    return write_job(folder, epochs=2, prompt=with_rule(tiny_job(folder)["spec"]["prompt"], 3))


@pytest.fixture(scope="module")
def whole(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of rows that were computed whole."""
    workdir = tmp_path_factory.mktemp("whole")
    ended = run_to_end(job, workdir, *FOUR_ROWS_A_STEP, "--set", "training.packing=Never")
    assert ended.code == 0, ended.text
    return workdir


@pytest.mark.parametrize("workers", [1, 2])
def test_the_trajectory_is_the_same(workers: int, job: Path, whole: Path, tmp_path: Path) -> None:
    run, more = (run_to_end, []) if workers == 1 else (run_command, ["--workers", str(workers)])
    ended = run(job, tmp_path, *FOUR_ROWS_A_STEP, *APART, *more)
    assert ended.code == 0, ended.text
    check_same(trajectories(tmp_path), trajectories(whole))
    assert computed(tmp_path) < 0.8 * computed(whole)


def computed(workdir: Path) -> float:
    """Tokens that went through the model in the first stage."""
    return sum(trajectories(workdir, "computed")["0"]["computed"])
