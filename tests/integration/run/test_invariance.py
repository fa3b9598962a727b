"""Workers, packs and packing change the speed of a run, not its trajectory. Each run is a command that a user types.

The case of two Ray workers is in test_workers, which needs that run anyway.

The reference is committed. With `PROMPTINTERN_WRITE_REFERENCE=1`, the run without packing writes it again.
"""

import json
import os
from pathlib import Path

import pytest

from tests.integration.run.process import run_command, run_to_end, trajectories, write_job
from tests.integration.run.reference import EPOCHS, REFERENCE, check_trajectory

SETTINGS = {
    "one process, no packing": ["--set", "training.packing=Never"],
    "one process": [],
    "one process, small packs": ["--set", "training.tokensPerPack=128"],
    "one Ray worker": ["--workers", "1"],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_trajectory(setting: str, tmp_path: Path) -> None:
    job = write_job(tmp_path, epochs=EPOCHS)
    # Ray ends with its driver's interpreter, and a warm process does not shut its own down.
    run = run_command if "Ray" in setting else run_to_end
    ended = run(job, tmp_path / "runs", *SETTINGS[setting])
    assert ended.code == 0, ended.text
    if os.environ.get("PROMPTINTERN_WRITE_REFERENCE") and setting == "one process, no packing":
        REFERENCE.write_text(json.dumps(trajectories(tmp_path / "runs"), indent=1))
    check_trajectory(tmp_path / "runs")
