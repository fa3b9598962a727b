"""Whether the methods go on training alike: more and smaller steps than are timed.

A fresh adapter's first steps say little, since its B is zero.
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
"""Rows of the padded methods' batches."""


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Our training of the first stage beside a padded method's.

    Attributes:
        first: Its loss in the first step.
        last: In the last one.
        ours: Our loss in the last step.
        losses: The largest difference of a step's loss, relative.
        norms: Of a step's gradient's norm.
    """

    first: float
    last: float
    ours: float
    losses: float
    norms: float


def alike(material: Path, shape: Shape) -> dict[str, Alike]:
    """By padded method."""
    ours = _train("ours", PACK[shape.device], material, shape)
    found = {}
    for method in ("hf", "trl"):
        theirs = _train(method, _BATCH, material, shape)
        losses, norms = relative_differences(ours, theirs)
        found[method] = Alike(
            first=theirs.losses[0], last=theirs.losses[-1], ours=ours.losses[-1], losses=losses, norms=norms
        )
    return found


def _train(method: str, size: int, material: Path, shape: Shape) -> Measured:
    say(f"{STEPS} steps of {ROWS} rows: {method}")
    return measure(method, size, material, shape, stage=0, rows=ROWS, steps=STEPS)
