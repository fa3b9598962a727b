"""Loss and gradient norm of every step of a job, as one process without packing had them."""

import json
from pathlib import Path

import pytest

from tests.integration.run.process import trajectories

Trajectories = dict[str, dict[str, list[float]]]

REFERENCE = Path(__file__).parent / "references/trajectory.json"
EPOCHS = 6
"""Of the job's stages."""
_STEPS = 3 * EPOCHS
_LOSS_TOLERANCE = 2e-5
"""Relative. Sums in another order differ by float32 rounding, and AdamW carries that on."""
_NORM_TOLERANCE = 2e-3
"""Relative. The gradient's norm falls toward zero while the loss does, so its rounding weighs more."""


def check_trajectory(workdir: Path) -> None:
    """The only run under ``workdir`` went as the reference did."""
    found = trajectories(workdir)
    reference = json.loads(REFERENCE.read_text())
    for stage, expected in reference.items():
        assert len(expected["loss"]) == _STEPS, stage
    check_same(found, reference)


def check_same(found: Trajectories, expected: Trajectories) -> None:
    """Both have the same steps, but for rounding."""
    assert found.keys() == expected.keys()
    for stage, steps in expected.items():
        assert found[stage]["loss"] == pytest.approx(steps["loss"], rel=_LOSS_TOLERANCE), stage
        assert found[stage]["grad_norm"] == pytest.approx(steps["grad_norm"], rel=_NORM_TOLERANCE), stage
