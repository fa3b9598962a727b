"""Compares the losses of our engine and the padded methods over more and smaller steps than in other measurements.

Many steps are needed, because the matrix B of LoRA starts at zero, so the first steps of a new adapter reveal little.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.training.compare import measure, relative_differences
from benchmarks.training.material import Shape
from benchmarks.training.methods import Measured
from benchmarks.training.processes import say
from benchmarks.training.profile import PACK

STEPS, ROWS = 12, 8
_BATCH = 2
"""The number of rows in a batch of the padded methods."""


@dataclass(frozen=True, kw_only=True)
class Alike:
    """The comparison of our engine with one padded method, both of which train the first stage.

    Attributes:
        first: The loss of the padded method in the first step.
        last: The loss of the padded method in the last step.
        ours: The loss of our engine in the last step.
        losses: The largest relative difference between the two losses of a step.
        norms: The largest relative difference between the two gradient norms of a step.
    """

    first: float
    last: float
    ours: float
    losses: float
    norms: float


def alike(material: Path, shape: Shape) -> dict[str, Alike]:
    """Compare our engine with each padded method, and return the comparisons by method."""
    ours = _train("ours", PACK[shape.device], material, shape)
    comparisons = {}
    for method in ("hf", "trl"):
        theirs = _train(method, _BATCH, material, shape)
        losses, norms = relative_differences(ours, theirs)
        comparisons[method] = Alike(
            first=theirs.losses[0], last=theirs.losses[-1], ours=ours.losses[-1], losses=losses, norms=norms
        )
    return comparisons


def _train(method: str, size: int, material: Path, shape: Shape) -> Measured:
    say(f"{STEPS} steps of {ROWS} rows: {method}")
    return measure(method, size, material, shape, stage=0, rows=ROWS, steps=STEPS)
