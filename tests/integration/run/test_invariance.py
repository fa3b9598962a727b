"""Workers, packs and packing are settings of speed: the trajectory is the same, through the command a user types.

The reference is committed. `PROMPTINTERN_WRITE_REFERENCE=1` writes it again, from one process without packing.
"""

import json
import os
from pathlib import Path

import pytest

from tests.integration.run.process import run_command, trajectories, write_job

REFERENCE = Path(__file__).parent / "references/trajectory.json"
LOSS_TOLERANCE = 2e-5
"""Relative. Sums in another order differ by float32 rounding, and AdamW carries that on."""
NORM_TOLERANCE = 2e-3
"""Relative. The gradient's norm falls toward zero while the loss does, so its rounding weighs more."""

SETTINGS = {
    "one process, no packing": ["--set", "training.packing=Never"],
    "one process": [],
    "one process, small packs": ["--set", "training.tokensPerPack=128"],
    "one Ray worker": ["--workers", "1"],
    "two Ray workers": ["--workers", "2"],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_trajectory(setting: str, tmp_path: Path) -> None:
    job = write_job(tmp_path, epochs=6)
    ended = run_command(job, tmp_path / "runs", *SETTINGS[setting])
    assert ended.code == 0, ended.text
    found = trajectories(tmp_path / "runs")
    if os.environ.get("PROMPTINTERN_WRITE_REFERENCE") and setting == "one process, no packing":
        REFERENCE.write_text(json.dumps(found, indent=1))
    reference = json.loads(REFERENCE.read_text())
    assert found.keys() == reference.keys()
    for stage, expected in reference.items():
        assert len(expected["loss"]) == 18
        assert found[stage]["loss"] == pytest.approx(expected["loss"], rel=LOSS_TOLERANCE), stage
        assert found[stage]["grad_norm"] == pytest.approx(expected["grad_norm"], rel=NORM_TOLERANCE), stage
