"""The reference trajectory: loss and gradient norm of every step of a job, from one process without packing."""

import json
from pathlib import Path

import pytest

from tests.integration.run.process import trajectories

Trajectories = dict[str, dict[str, list[float]]]

REFERENCE = Path(__file__).parent / "references/trajectory.json"
EPOCHS = 6
"""Epochs of each stage of the job."""
_STEPS = 3 * EPOCHS
_LOSS_TOLERANCE = 2e-5
"""Relative tolerance. Sums in another order differ by float32 rounding, and AdamW carries the difference on."""
_NORM_TOLERANCE = 2e-3
"""Relative tolerance. The gradient's norm falls toward zero with the loss, so its rounding weighs more."""


def check_trajectory(workdir: Path) -> None:
    """Check that the only run under ``workdir`` has the trajectory of the reference."""
    actual = trajectories(workdir)
    reference = json.loads(REFERENCE.read_text())
    for stage, expected in reference.items():
        assert len(expected["loss"]) == _STEPS, stage
    check_same(actual, reference)


def check_same(actual: Trajectories, expected: Trajectories) -> None:
    """Check that both have the same values at all steps, except for rounding."""
    assert actual.keys() == expected.keys()
    for stage, steps in expected.items():
        assert actual[stage]["loss"] == pytest.approx(steps["loss"], rel=_LOSS_TOLERANCE), stage
        assert actual[stage]["grad_norm"] == pytest.approx(steps["grad_norm"], rel=_NORM_TOLERANCE), stage
