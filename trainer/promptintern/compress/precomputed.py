"""Compression with templates that the user wrote, one for each rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from promptintern_api.prompt import CompressorKind, PromptSpec

from promptintern.compress.ranked import CompressedTemplate, compressed_template, count_tokens, uncompressed
from promptintern.errors import Problem, UserError
from promptintern.prompt.template import EXAMPLES, Template, parse_template
from promptintern.schedule import Stage

FIELD = "spec.prompt.compressor.templates"
RATE_TOLERANCE = 1e-3
"""The largest difference between a template's rate and a stage's rate that match, so that ``0.333`` matches 1/3."""


@dataclass(frozen=True, kw_only=True)
class PrecomputedTemplates:
    """A compressor that returns the templates that the user wrote for the rates."""

    full: Template
    by_rate: dict[float, Template]
    tokenizer: Any

    def compress(self, rate: float) -> CompressedTemplate:
        """Return the user's template for ``rate``. If the user wrote none for rate 1, return the full template for it.

        Raises:
            UserError: if the user wrote no template for ``rate``.
        """
        template = _nearest(self.by_rate, rate)
        if template is None and rate >= 1:
            return uncompressed(self.full, self.tokenizer)
        if template is None:
            raise UserError([_missing(rate, self.by_rate)])
        return compressed_template(
            template.pieces,
            rate=rate,
            tokens=count_tokens(template.pieces, self.tokenizer),
            full_tokens=count_tokens(self.full.pieces, self.tokenizer),
        )


def check_precomputed(spec: PromptSpec, stages: Sequence[Stage]) -> None:
    """Check that a compressor of kind Precomputed has a suitable template for each stage. Skip other kinds.

    Raises:
        UserError: for every rate below 1 without a template, and for every template without {examples} whose stage has
            shots.
    """
    if spec.compressor.kind is not CompressorKind.PRECOMPUTED:
        return
    by_rate = parse_precomputed(spec)
    problems: dict[float, Problem] = {}
    for stage in stages:
        template = _nearest(by_rate, stage.rate)
        if template is None:
            if stage.rate < 1:
                problems[stage.rate] = _missing(stage.rate, by_rate)
        elif stage.shots and not any(piece.kind is EXAMPLES for piece in template.pieces):
            problems[stage.rate] = Problem(
                where=FIELD,
                message=f"the template for rate {stage.rate:g} lacks {{examples}}, but its stage has {stage.shots} "
                "shots; add the placeholder, or set that stage's shots to 0",
            )
    if problems:
        raise UserError([*problems.values()])


def _missing(rate: float, by_rate: dict[float, Template]) -> Problem:
    available = ", ".join(f"{other:g}" for other in sorted(by_rate, reverse=True))
    return Problem(
        where=FIELD,
        message=f"has no template for rate {rate:g}, which the schedule needs; it has templates for {available}",
    )


def _nearest(by_rate: dict[float, Template], rate: float) -> Template | None:
    nearest = min(by_rate, key=lambda other: abs(other - rate), default=None)
    return by_rate[nearest] if nearest is not None and abs(nearest - rate) <= RATE_TOLERANCE else None


def parse_precomputed(spec: PromptSpec) -> dict[float, Template]:
    """Parse the user's templates, and return them by rate.

    Raises:
        UserError: at every template that is invalid or lacks protected text, and at every repeated rate.
    """
    by_rate: dict[float, Template] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(spec.compressor.templates or []):
        field = f"{FIELD}[{index}].template"
        try:
            template = parse_template(entry.template, spec.protect, field=field)
        except UserError as error:
            problems += error.problems
            continue
        if entry.rate in by_rate:
            problems.append(Problem(where=f"{FIELD}[{index}].rate", message=f"the rate {entry.rate:g} is given twice"))
        by_rate[entry.rate] = template
    if problems:
        raise UserError(problems)
    return by_rate
