"""The methods side by side, stage by stage: batch sizes in a first round, then each method at its best."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.training.material import Shape, mean_row, read_stage
from benchmarks.training.methods import Measured, Work, run
from benchmarks.training.processes import in_new_process, say

NAMES = {"hf": "HF Trainer + PEFT", "trl": "TRL, padded", "trl-packed": "TRL, packed (bfd)", "ours": "PromptIntern"}
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-5, 1e-3
"""Relative, of a step's loss and of its gradient's norm. Updates differ by rounding, which later steps carry on.
Other rows, or another scale of the gradient, would differ by more."""
_LONG_ROWS = 300
"""Tokens from which padded batches of 4 and 16 are tried, else of 16 and 64."""


@dataclass(kw_only=True)
class Setting:
    """One method at one batch size in one stage.

    Attributes:
        size: Rows of a padded batch, or tokens of a pack.
        seconds: Of every measured step, over all processes.
        losses: Of a process's steps.
        norms: Of their gradients.
    """

    method: str
    size: int
    stage: int
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)


def compare(
    material: Path,
    shape: Shape,
    *,
    stages: Sequence[int],
    rows: int,
    repeats: int,
    methods: Sequence[str],
) -> list[Setting]:
    """Two steps of ``rows`` rows by every method, of which the second counts; methods take turns."""
    settings = [
        Setting(method=method, size=size, stage=stage)
        for stage in stages
        for method in methods
        for size in sizes_of(method, material, stage)
    ]
    for repeat in range(repeats):
        for setting in settings if repeat == 0 else best_of(settings):
            say(f"round {repeat + 1} of {repeats}: stage {setting.stage + 1}, {NAMES[setting.method]}, {setting.size}")
            found = measure(setting.method, setting.size, material, shape, stage=setting.stage, rows=rows)
            setting.seconds += found.seconds
            setting.losses, setting.norms = found.losses, found.norms
            setting.peak_mib = max(setting.peak_mib, found.peak_mib)
    return settings


def measure(method: str, size: int, material: Path, shape: Shape, *, stage: int, rows: int) -> Measured:
    """One process: a step of ``rows`` rows that does not count, and one that does."""
    assert method in ("ours", "trl-packed") or rows % size == 0, "padded batches have to fill a step"
    steps = 3 if method == "trl-packed" else 2
    work = Work(
        method=method,
        rows=read_stage(material, stage)[: rows * steps],
        rows_per_step=rows,
        size=size,
        shape=shape,
        tokenizer=material / "tokenizer",
    )
    return in_new_process(run, work)


def sizes_of(method: str, material: Path, stage: int) -> tuple[int, ...]:
    """The batch sizes or packs to try."""
    if method == "ours":
        return (4096, 8192)
    if method == "trl-packed":
        return (1024, 2048)
    return (4, 16) if mean_row(material, stage) > _LONG_ROWS else (16, 64)


def best_of(settings: Sequence[Setting]) -> list[Setting]:
    """The fastest batch size of every method in every stage, as the first round had it."""
    best: dict[tuple[int, str], Setting] = {}
    for setting in settings:
        key = setting.stage, setting.method
        if key not in best or setting.seconds[0] < best[key].seconds[0]:
            best[key] = setting
    return list(best.values())


def differences(ours: Setting, theirs: Sequence[Setting]) -> tuple[float, float] | None:
    """The largest of any step's loss, and of its gradient's norm, from those of a padded method, relative.

    None if there is no padded method: a packed TRL step holds other rows.
    """
    padded = [s for s in theirs if s.method != "trl-packed"]
    if not padded:
        return None
    return (
        max(_off(ours.losses, s.losses) for s in padded),
        max(_off(ours.norms, s.norms) for s in padded),
    )


def _off(found: Sequence[float], expected: Sequence[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
