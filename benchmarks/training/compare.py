"""The methods side by side, stage by stage: all batch sizes in a first round, then those that may be the best."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.training.material import Shape, mean_row, row_lengths
from benchmarks.training.methods import Measured, Work, run
from benchmarks.training.processes import in_new_process, say
from benchmarks.training.profile import PACK

NAMES = {"hf": "HF Trainer + PEFT", "trl": "TRL, padded", "trl-packed": "TRL, packed (bfd)", "ours": "PromptIntern"}
TOLERANCES = {"float32": (1e-5, 1e-5), "bfloat16": (5e-3, 5e-2)}
"""Relative, of a step's loss and of its gradient's norm. Updates differ by rounding, which later steps carry on.
Other rows, or another scale of the gradient, would differ by more."""
_LONG_ROWS = 300
"""Tokens from which smaller batches are tried: long rows fill a machine."""


FAR_BEHIND, CLOSE = 1.2, 1.25
"""In the first round: a method whose best is so many times slower than another's, and a batch size than the method's
best that may yet be faster. One measurement on a shared machine may be off by a quarter, so what goes no further could
hardly have been the best."""


SHORT, OF_SHORT = 3.0, 2
"""Seconds of a step, and processes in a round if on a CPU it takes less: a moment in which something else has the
machine weighs more on a short step."""


@dataclass(kw_only=True)
class Setting:
    """One method at one batch size in one stage.

    Attributes:
        size: Rows of a padded batch, or tokens of a pack.
        rounds: It was measured in.
        seconds: Of every measured step, over all processes.
        losses: Of a process's steps.
        norms: Of their gradients.
    """

    method: str
    size: int
    stage: int
    rounds: int = 0
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    mfu: float | None = None

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
    """Some steps of ``rows`` rows by every method, of which the first does not count; methods take turns."""
    settings: list[Setting] = []
    for stage in stages:
        for method in methods:
            here = [s for s in settings if s.stage == stage and s.method == "hf"]
            # Both pad and compute the same, so the best of one is taken for the other.
            known = [best_of(here)[0].size] if method == "trl" and here else sizes_of(method, material, shape, stage)
            for size in known:
                setting = Setting(method=method, size=size, stage=stage)
                try:
                    _measure(setting, material, shape, rows=rows, about=f"round 1 of {repeats}")
                except torch.OutOfMemoryError:
                    say(f"it takes more memory than there is, and is left out: {setting}")
                else:
                    settings.append(setting)
    running = in_the_running(settings)
    for repeat in range(1, repeats):
        for setting in running:
            _measure(setting, material, shape, rows=rows, about=f"round {repeat + 1} of {repeats}")
    return settings


def _measure(setting: Setting, material: Path, shape: Shape, *, rows: int, about: str) -> None:
    say(f"{about}: stage {setting.stage + 1}, {NAMES[setting.method]}, {setting.size}")
    setting.rounds += 1
    for _ in range(OF_SHORT if shape.device == "cpu" else 1):
        found = measure(setting.method, setting.size, material, shape, stage=setting.stage, rows=rows)
        setting.seconds += found.seconds
        setting.losses, setting.norms, setting.mfu = found.losses, found.norms, found.mfu
        setting.peak_mib = max(setting.peak_mib, found.peak_mib)
        if max(found.seconds) > SHORT:
            break


def measure(
    method: str, size: int, material: Path, shape: Shape, *, stage: int, rows: int, steps: int | None = None
) -> Measured:
    """One process: a step of ``rows`` rows that does not count, and one that does, or three on a GPU, if not so many
    ``steps``."""
    assert method in ("ours", "trl-packed") or rows % size == 0, "padded batches have to fill a step"
    if steps is None:
        steps = steps_per_process(shape.device) + (method == "trl-packed")
    work = Work.of_stage(material, stage, method=method, rows=rows, size=size, shape=shape, steps=steps)
    return in_new_process(run, work, method=method)


def steps_per_process(device: str) -> int:
    """Of a process. The first does not count."""
    return 2 if device == "cpu" else 4


def sizes_of(method: str, material: Path, shape: Shape, stage: int) -> tuple[int, ...]:
    """The batch sizes or packs to try."""
    gpu, long = shape.device != "cpu", mean_row(material, stage) > _LONG_ROWS
    if method == "ours":
        return (8192, 32768) if gpu else (PACK["cpu"],)
    if method == "trl-packed" and gpu:
        return (4096, 16384) if long else (2048, 4096)
    if method == "trl-packed":
        smallest = max(256, 1 << (max(row_lengths(material, stage)) - 1).bit_length())
        return tuple(sorted({smallest, max(1024, smallest)}))  # a mask's cost grows with the square of a pack
    if gpu:
        return (16, 32, 64) if long else (16, 64)
    return (1, 2, 4, 8) if long else (1, 2, 4, 16)


def best_of(settings: Sequence[Setting]) -> list[Setting]:
    """The fastest batch size of every method in every stage, of those that were in the running to the end."""
    best: dict[tuple[int, str], Setting] = {}
    for setting in settings:
        key = setting.stage, setting.method
        if key not in best or _rank(setting) < _rank(best[key]):
            best[key] = setting
    return list(best.values())


def _rank(setting: Setting) -> tuple[int, float]:
    return -setting.rounds, setting.median


def in_the_running(settings: Sequence[Setting]) -> list[Setting]:
    """What the first round had close to the best of its method, if that is not far behind another of the others."""
    best = {(s.stage, s.method): s.median for s in best_of(settings)}

    def may_win(setting: Setting) -> bool:
        own = best[setting.stage, setting.method]
        others = [t for (stage, method), t in best.items() if stage == setting.stage and method != "ours"]
        ahead = setting.method == "ours" or own <= FAR_BEHIND * min(others)
        return ahead and setting.median <= CLOSE * own

    return [setting for setting in settings if may_win(setting)]


def differences(ours: Setting, theirs: Sequence[Setting]) -> tuple[float, float] | None:
    """The largest of any step's loss, and of its gradient's norm, from those of a padded method, relative.

    None if there is no padded method: a packed TRL step holds other rows.
    """
    padded = [s for s in theirs if s.method != "trl-packed"]
    if not padded:
        return None
    losses, norms = zip(*(relative_differences(ours, s) for s in padded), strict=True)
    return max(losses), max(norms)


def relative_differences(ours: Setting | Measured, theirs: Setting | Measured) -> tuple[float, float]:
    """The largest of any step's loss, and of its gradient's norm, relative to ``theirs``."""
    return _furthest(ours.losses, theirs.losses), _furthest(ours.norms, theirs.norms)


def is_same_training(off: tuple[float, float], dtype: str) -> bool:
    """Whether ``differences`` are rounding."""
    return all(found <= most for found, most in zip(off, TOLERANCES[dtype], strict=True))


def other_trainings(settings: Sequence[Setting], dtype: str) -> list[int]:
    """Stages in which ours did not train as the padded methods did."""
    wrong = []
    for stage in sorted({s.stage for s in settings}):
        here = [s for s in settings if s.stage == stage]
        ours, others = [s for s in here if s.method == "ours"], [s for s in here if s.method != "ours"]
        found = [off for s in ours if (off := differences(s, others)) is not None]
        if not all(is_same_training(off, dtype) for off in found):
            wrong.append(stage)
    return wrong


def _furthest(found: Sequence[float], expected: Sequence[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
