"""Measures the training speed in the first stage at several template lengths and at several pack sizes."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.training.compare import measure, steps_per_process
from benchmarks.training.material import Shape, row_lengths, write_material
from benchmarks.training.processes import say

_PADDED_TOKENS = 16384
"""The approximate number of tokens in a step of HF Trainer. It hardly affects the speed, but keeps a step from taking
minutes, as 64 long rows would."""
_ALL_ROWS = 2**20
"""A pack size that holds all rows of a step in one pack, or in one pack per lane."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """The measurements at one template length.

    Attributes:
        template: The number of tokens in the template.
        row: The mean number of tokens in a row.
        ours: The number of examples per second with our engine.
        hf: The number of examples per second with HF Trainer and PEFT, padded, for rows as long as those of our engine.
        batch: The fastest batch size of HF Trainer.
        packs: The number of packs in a step of our engine, which are all computed concurrently.
        gains: The speed of our engine divided by that of HF Trainer, in each round.
    """

    template: int
    row: float
    ours: float
    hf: float
    batch: int
    packs: float
    gains: list[float]


@dataclass(frozen=True, kw_only=True)
class PackSize:
    """The measurements of our engine at one pack size.

    Attributes:
        pack: The total number of tokens in all concurrent packs.
        lanes: The number of concurrent packs.
        rows_per_pack: The mean number of rows in a pack.
        ours: The number of examples per second.
        peak_mib: The peak memory in MiB, as in ``Measured``.
    """

    pack: int
    lanes: int
    rows_per_pack: float
    ours: float
    peak_mib: float


def by_template(
    folder: Path,
    shape: Shape,
    *,
    data: Path | None,
    templates: Sequence[int],
    rows: int,
    repeats: int,
) -> list[Length]:
    """Compare our engine with padded HF Trainer at each template length in ``templates`` (in tokens).

    Our engine computes all ``rows`` rows of a step in one pack, or in one pack per lane. The figures are medians
    over ``repeats`` rounds.
    """
    found = []
    for template in templates:
        material = folder / f"template-{template}"
        material.mkdir()
        write_material(material, data=data, rows=4 * rows, template_tokens=template, stages=2)
        lengths = row_lengths(material, 0)
        row = statistics.mean(lengths)
        most = 4 if shape.device == "cpu" else 16
        batches = [batch for batch in (1, 2, 4, 16) if batch == 1 or batch <= min(most, _PADDED_TOKENS / row)]
        padded = max(2, int(_PADDED_TOKENS / row) // batches[-1] * batches[-1])
        # With few rows, the counted steps of HF Trainer may have longer or shorter rows than ours.
        theirs, own = (statistics.mean(lengths[n : n * steps_per_process(shape.device)]) for n in (padded, rows))
        seconds: dict[int, list[float]] = {batch: [] for batch in batches[-3:]}
        ours: list[float] = []
        packs = 0.0
        for repeat in range(repeats):
            say(f"round {repeat + 1} of {repeats}: template of {template} tokens")
            found_ours = measure("ours", _ALL_ROWS, material, shape, stage=0, rows=rows)
            ours += found_ours.seconds
            packs = found_ours.packs
            for batch in [min(seconds, key=lambda batch: seconds[batch][0])] if repeat else list(seconds):
                seconds[batch] += measure("hf", batch, material, shape, stage=0, rows=padded).seconds
        batch = min(seconds, key=lambda batch: seconds[batch][0])
        each_row = [taken / padded * own / theirs for taken in seconds[batch]]
        found.append(
            Length(
                template=template,
                row=row,
                ours=rows / statistics.median(ours),
                hf=1 / statistics.median(each_row),
                batch=batch,
                packs=packs,
                gains=[one * rows / step for one, step in zip(each_row, ours, strict=True)],
            )
        )
    return found


def by_pack(
    material: Path,
    shape: Shape,
    *,
    packs: Sequence[int],
    rows: int,
    repeats: int,
) -> list[PackSize]:
    """Measure our engine at each pack size in ``packs`` (in tokens), with the same ``rows`` rows in each step."""
    seconds: dict[int, list[float]] = {pack: [] for pack in packs}
    count: dict[int, float] = {}
    lanes: dict[int, int] = {}
    peak = dict.fromkeys(packs, 0.0)
    for repeat in range(repeats):
        for pack in packs:
            say(f"round {repeat + 1} of {repeats}: packs of {pack} tokens")
            found = measure("ours", pack, material, shape, stage=0, rows=rows)
            seconds[pack] += found.seconds
            count[pack], lanes[pack] = found.packs, found.lanes
            peak[pack] = max(peak[pack], found.peak_mib)
    return [
        PackSize(
            pack=pack,
            lanes=lanes[pack],
            rows_per_pack=rows / count[pack],
            ours=rows / statistics.median(taken),
            peak_mib=peak[pack],
        )
        for pack, taken in seconds.items()
    ]
