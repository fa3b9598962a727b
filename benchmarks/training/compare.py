"""Compares the training speed of the methods in each stage.

The first round measures all batch sizes, and later rounds measure only the batch sizes that may be the fastest.
"""

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
"""The largest relative differences in the loss and the gradient norm of a step that rounding may cause between
methods, by dtype. Such differences carry over to later steps. Other rows or another scale of the gradient would make a
larger difference."""
_LONG_ROWS = 300
"""The mean number of tokens per row above which smaller batches are tried. Even a few long rows keep a machine busy."""


FAR_BEHIND, CLOSE = 1.2, 1.25
"""The limits for measuring a method or a batch size again after the first round. A method is measured again if it takes
at most ``FAR_BEHIND`` times as long as the fastest method other than ours; our method always is. A batch size is
measured again if it takes at most ``CLOSE`` times as long as the best batch size of the method. One measurement on a
shared machine may be off by a quarter, so an excluded setting is hardly ever the fastest."""


SHORT, OF_SHORT = 3.0, 2
"""The number of seconds up to which a step on a CPU counts as short, and the number of processes that measure a short
step in each round. Other load on the machine distorts short steps more than long ones."""


@dataclass(kw_only=True)
class Setting:
    """The measurements of one method at one batch size in one stage.

    Attributes:
        size: The number of rows in a padded batch, or of tokens in a pack.
        rounds: The number of rounds in which the setting was measured.
        seconds: The time in seconds of each step of all processes, without the first step of a process.
        losses: The loss of each step of the last process.
        norms: The gradient norm of each step of the last process.
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
        """The median time of a step in seconds."""
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
    """Measure each method in each stage, in ``repeats`` rounds, with ``rows`` rows in an optimizer step.

    The first step of a process does not count.
    """
    settings: list[Setting] = []
    for stage in stages:
        for method in methods:
            here = [s for s in settings if s.stage == stage and s.method == "hf"]
            # TRL pads and computes in the same way as HF Trainer, so it gets the best size of HF Trainer.
            sizes = [best_of(here)[0].size] if method == "trl" and here else sizes_of(method, material, shape, stage)
            for size in sizes:
                setting = Setting(method=method, size=size, stage=stage)
                try:
                    _measure(setting, material, shape, rows=rows, about=f"round 1 of {repeats}")
                except torch.OutOfMemoryError:
                    say(f"out of memory, so it is left out: {setting}")
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
    """Train with ``method`` in a new process, and return the measurements. The first step does not count.

    Args:
        rows: The number of rows in an optimizer step.
        steps: The number of steps, including the first. By default, one step counts on a CPU and three on a GPU.
    """
    assert method in ("ours", "trl-packed") or rows % size == 0, "padded batches must fill a step"
    if steps is None:
        steps = steps_per_process(shape.device) + (method == "trl-packed")
    work = Work.of_stage(material, stage, method=method, rows=rows, size=size, shape=shape, steps=steps)
    return in_new_process(run, work, method=method)


def steps_per_process(device: str) -> int:
    """Return the number of steps that a process trains, including the first, which is not measured."""
    return 2 if device == "cpu" else 4


def sizes_of(method: str, material: Path, shape: Shape, stage: int) -> tuple[int, ...]:
    """Return the batch sizes or pack sizes to try with ``method`` in ``stage``."""
    gpu, long = shape.device != "cpu", mean_row(material, stage) > _LONG_ROWS
    if method == "ours":
        return (8192, 32768) if gpu else (PACK["cpu"],)
    if method == "trl-packed" and gpu:
        return (4096, 16384) if long else (2048, 4096)
    if method == "trl-packed":
        smallest = max(256, 1 << (max(row_lengths(material, stage)) - 1).bit_length())
        return tuple(sorted({smallest, max(1024, smallest)}))  # the cost of a mask grows with the square of the size
    if gpu:
        return (16, 32, 64) if long else (16, 64)
    return (1, 2, 4, 8) if long else (1, 2, 4, 16)


def best_of(settings: Sequence[Setting]) -> list[Setting]:
    """Return the fastest setting of each method in each stage, among its settings with the most rounds."""
    best: dict[tuple[int, str], Setting] = {}
    for setting in settings:
        key = setting.stage, setting.method
        if key not in best or _rank(setting) < _rank(best[key]):
            best[key] = setting
    return list(best.values())


def _rank(setting: Setting) -> tuple[int, float]:
    return -setting.rounds, setting.median


def in_the_running(settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings to measure in further rounds, by the limits ``FAR_BEHIND`` and ``CLOSE``."""
    best = {(s.stage, s.method): s.median for s in best_of(settings)}

    def may_win(setting: Setting) -> bool:
        own = best[setting.stage, setting.method]
        others = [t for (stage, method), t in best.items() if stage == setting.stage and method != "ours"]
        ahead = setting.method == "ours" or own <= FAR_BEHIND * min(others)
        return ahead and setting.median <= CLOSE * own

    return [setting for setting in settings if may_win(setting)]


def differences(ours: Setting, theirs: Sequence[Setting]) -> tuple[float, float] | None:
    """Return the largest relative differences between our and the padded methods' loss and gradient norm of a step.

    Return None if no setting in ``theirs`` is padded. Packed TRL does not count, because its steps have other rows.
    """
    padded = [s for s in theirs if s.method != "trl-packed"]
    if not padded:
        return None
    losses, norms = zip(*(relative_differences(ours, s) for s in padded), strict=True)
    return max(losses), max(norms)


def relative_differences(ours: Setting | Measured, theirs: Setting | Measured) -> tuple[float, float]:
    """Return the largest differences in the loss and gradient norm of a step, relative to the values of ``theirs``."""
    return _furthest(ours.losses, theirs.losses), _furthest(ours.norms, theirs.norms)


def is_same_training(off: tuple[float, float], dtype: str) -> bool:
    """Return whether the relative differences of loss and gradient norm, ``off``, are within the ``TOLERANCES``."""
    return all(found <= most for found, most in zip(off, TOLERANCES[dtype], strict=True))


def other_trainings(settings: Sequence[Setting], dtype: str) -> list[int]:
    """Return the stages in which our losses or gradient norms are not within ``TOLERANCES`` of the padded methods'."""
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
