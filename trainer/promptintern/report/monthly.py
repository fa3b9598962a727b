"""What the result of a run saves at a monthly number of queries, which the reader of the page can change."""

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources

from promptintern.report import formatting
from promptintern.report.facts import FULL_PROMPT
from promptintern.report.schema import Report

VOLUME = 1_000_000
"""The number of queries a month that the page shows first."""
DAYS = 30
"""The number of days in a month."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """A quantity of which each query saves the same amount."""

    each: float
    unit: str

    @property
    def text(self) -> str:
        """The amount at ``VOLUME`` queries."""
        return _show(self.each * VOLUME)


@dataclass(frozen=True, kw_only=True)
class Payback:
    """The number of queries after which the savings exceed the cost of the training."""

    queries: int

    @property
    def text(self) -> str:
        """The number of days at ``VOLUME`` queries a month."""
        days = self.queries / VOLUME * DAYS
        return "less than a day" if days < 1 else f"{_show(days)} days"


@dataclass(frozen=True, kw_only=True)
class Monthly:
    """What the result saves every month against the full prompt."""

    anew: list[Saving]
    """The savings if the server keeps nothing between requests."""
    kept: list[Saving]
    """The savings if the server keeps the tokens with which all prompts begin."""
    payback: Payback | None
    payback_if_kept: Payback | None
    volume: str = formatting.count(VOLUME)


def monthly_savings(report: Report) -> Monthly | None:
    """Return the monthly savings, or None if the run has no result or its prompts are not shorter."""
    full = report.arm(FULL_PROMPT)
    result = report.arm(report.verdict.arm) if report.verdict.arm else None
    if full is None or result is None or full.prompt_tokens.mean <= result.prompt_tokens.mean:
        return None
    currency = report.prices.currency if report.prices else ""

    def savings(tokens: float, before: float | None, after: float | None) -> list[Saving]:
        found = [Saving(each=tokens, unit="prompt tokens")] if tokens > 0 else []
        if before is not None and after is not None and before > after:
            found.append(Saving(each=(before - after) / 1000, unit=currency))
        return found

    training = report.training
    return Monthly(
        anew=savings(
            full.prompt_tokens.mean - result.prompt_tokens.mean, full.cost_per_thousand, result.cost_per_thousand
        ),
        kept=savings(
            full.computed_tokens - result.computed_tokens,
            full.kept_cost_per_thousand,
            result.kept_cost_per_thousand,
        ),
        payback=None if training.pays_from is None else Payback(queries=training.pays_from),
        payback_if_kept=None if training.pays_from_if_kept is None else Payback(queries=training.pays_from_if_kept),
    )


def script() -> str:
    """Return the script that computes the figures again for another number of queries."""
    return resources.files("promptintern.report").joinpath("templates/volume.js").read_text(encoding="utf-8")


def script_source(text: str) -> str:
    """Return the source expression that allows exactly this script under a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _show(value: float) -> str:
    """Format a number as the script does: with at most two decimals below 100, and as a whole number above."""
    return formatting.number(value) if value < 100 else formatting.count(value)
