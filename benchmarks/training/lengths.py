"""What the first stage costs against the template's length, and against the rows that share a pack."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.training.compare import measure, steps_per_process
from benchmarks.training.material import Shape, row_lengths, write_material
from benchmarks.training.processes import say

_PADDED_TOKENS = 16384
"""Of a padded method's step, whose speed does not depend on its rows; 64 long ones would take minutes."""
_ALL_ROWS = 2**20
"""Tokens at a time that hold them: in one pack, or in one for each lane."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """One template.

    Attributes:
        template: Tokens.
        row: Mean tokens of a row.
        ours: Examples per second.
        hf: Of HF Trainer with PEFT, padded; of rows as long as ours.
        batch: Its batch size, the faster one.
        packs: Of ours, that the rows are in, all at a time.
        gains: Ours by HF's, round by round.
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
    """One size of our packs.

    Attributes:
        pack: Tokens of the packs at a time.
        lanes: How many are at a time.
        rows_per_pack: Mean.
        ours: Examples per second.
        peak_mib: As of ``Measured``.
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
    """All ``rows`` rows of a step below one template, in one pack or in one for each lane, against padded rows; the
    median of ``repeats``."""
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
        # The steps that count may hold longer or shorter rows than ours do, if they hold few.
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
    """Packs of different sizes over the same rows."""
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
