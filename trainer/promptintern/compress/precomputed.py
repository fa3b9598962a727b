"""The user's own template for every rate."""

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
"""How far the rate of a template may be from the stage's: ``0.333`` serves 1/3."""


@dataclass(frozen=True, kw_only=True)
class PrecomputedTemplates:
    """The user's own text for each rate."""

    full: Template
    by_rate: dict[float, Template]
    tokenizer: Any

    def compress(self, rate: float) -> CompressedTemplate:
        """The text that the user wrote for ``rate``; at rate 1 the template itself, unless one is given.

        Raises:
            UserError: if there is none.
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
    """Whether a Precomputed compressor has a right template for each stage. Other compressors always have.

    Raises:
        UserError: naming every rate that has none, or has one without room for the stage's examples.
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
    """The templates by rate.

    Raises:
        UserError: naming every template that is wrong or lacks protected text, and every rate that stands there twice.
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
