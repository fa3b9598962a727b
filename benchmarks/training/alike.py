"""Checks that the methods train alike over more and smaller steps than are timed.

The first steps of a new adapter show little, because its matrix B is zero.
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
"""Rows in a batch of the padded methods."""


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Our training of the first stage, compared with that of a padded method.

    Attributes:
        first: The method's loss in the first step.
        last: The method's loss in the last step.
        ours: Our loss in the last step.
        losses: Largest relative difference of the loss of a step.
        norms: Largest relative difference of the gradient norm of a step.
    """

    first: float
    last: float
    ours: float
    losses: float
    norms: float


def alike(material: Path, shape: Shape) -> dict[str, Alike]:
    """Return the comparison with each padded method."""
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
