"""Formats numbers as text, for the report, the terminal and messages."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from promptintern_api.metrics import Metric

MINUS = "\u2212"
MAX_TEXT_LENGTH = 1200
"""The largest number of characters of a query, an answer, a warning or a note in a report."""
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
METRIC_NAMES = {
    Metric.EXACT_MATCH: "exact match",
    Metric.BLEU: "BLEU",
    Metric.CHRF: "chrF",
    Metric.BASH_TEMPLATE: "template match",
    Metric.PASS_AT_1: "pass@1",
    Metric.SCORER: "own score",
}


def score(metric: Metric, value: float) -> str:
    """Format a score, as ``97.0 %`` for a share or ``45.2`` for BLEU."""
    return percent(value, digits=1) if metric.is_share else _fixed(value, 1)


def named_score(metric: Metric, value: float) -> str:
    """Format a score with the name of its metric, as ``97.0 % exact match`` or ``BLEU 45.2``."""
    name = METRIC_NAMES[metric]
    return f"{score(metric, value)} {name}" if metric.is_share else f"{name} {score(metric, value)}"


class Bounded(Protocol):
    """A score, or a difference of two scores, with its interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def score_with_interval(metric: Metric, figure: Bounded) -> str:
    """Format a score with its interval, as ``97.0 % (93.6 % to 98.6 %)`` for a share."""
    return f"{score(metric, figure.value)} ({score(metric, figure.low)} to {score(metric, figure.high)})"


def mean_with_spread(metric: Metric, figures: Sequence[Bounded], *, label: str = "") -> str:
    """Format the mean score of several runs, with the smallest and the largest score after ``label``."""
    values = [figure.value for figure in figures]
    low, high = score(metric, min(values)), score(metric, max(values))
    return f"{score(metric, statistics.mean(values))} ({label}{low} to {high})"


def difference_with_interval(metric: Metric, figure: Bounded) -> str:
    """Format the difference of two scores with its interval, in points, as ``+0.5 (−3.3 to +4.3)``."""
    value, low, high = (difference(metric, each, unit=False) for each in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})"


def difference(metric: Metric, value: float, *, unit: bool = True) -> str:
    """Format the difference of two scores with its sign, in percentage points for a share or in points."""
    text = signed(_in_points(metric, value))
    return f"{text} points" if unit else text


def points(metric: Metric, value: float) -> str:
    """Format a score as a number of points without a plus sign, such as ``2 points``."""
    text = number(_in_points(metric, value))
    return f"{text} {'point' if text == '1' else 'points'}"


def unsigned_difference(metric: Metric, value: float) -> str:
    """Format the size of a difference of two scores, in percentage points for a share or in points."""
    return _fixed(_in_points(metric, value), 1)


def _in_points(metric: Metric, value: float) -> float:
    return 100 * value if metric.is_share else value


def p_value(value: float) -> str:
    """Format a p-value with two significant digits, or as a bound if it is below 0.0001."""
    if value < 0.0001:
        return "< 0.0001"
    decimals = 2 if value >= 0.095 else 3 if value >= 0.0095 else 4
    return f"{value:.{decimals}f}"


def percent(share: float, *, digits: int | None = None) -> str:
    """Format a share as a percentage.

    By default, a share has no decimals if it is below 98.5 % or exactly 100 %, and one decimal otherwise. A share below
    1 is never shown as ``100 %``.
    """
    if digits is None:
        digits = 0 if share == 1 or abs(share) < 0.985 else 1
        if digits and _fixed(100 * share, digits) == "100.0" and share < 1:
            return "over 99.9 %"
    return f"{_fixed(100 * share, digits)} %"


def signed(value: float, *, digits: int = 1) -> str:
    """Format a number with its sign, such as ``+1.5``, ``−0.5`` or ``0.0``."""
    text = _fixed(value, digits)
    return text if text.startswith(MINUS) or not text.strip("0.") else f"+{text}"


def number(value: float) -> str:
    """Format a number with at most two decimals and without trailing zeros."""
    text = _fixed(value, 2)
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: float) -> str:
    """Format a number as a whole number with commas between groups of three digits."""
    return f"{round(value):,}"


def mean(value: float) -> str:
    """Format a mean or a rate, with one decimal if it is below 100 and without decimals otherwise."""
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def size(count_bytes: float) -> str:
    """Format a number of bytes in KiB, MiB or GiB."""
    value, unit = count_bytes / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if value >= 1024:
            value, unit = value / 1024, larger
    return f"{number(value) if value < 10 else mean(value)} {unit}"


def ratio(value: float) -> str:
    """Format a ratio as a factor, such as ``4.2×``."""
    return f"{value:.1f}×" if value < 100 else f"{value:,.0f}×"


def seconds(value: float) -> str:
    """Format a short time, which is given in seconds, such as ``4.1 ms``, ``320 ms`` or ``1.25 s``."""
    if value < 1:
        return f"{1000 * value:.1f} ms" if value < 0.01 else f"{1000 * value:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def duration(value: float) -> str:
    """Format a long time, which is given in seconds, such as ``48 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(timedelta(seconds=value).total_seconds()), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def shares(parts: Mapping[str, float]) -> str:
    """Return the share of each part in the sum of ``parts`` as text, such as ``train 60 %, evaluate 40 %``.

    Parts below half a percent are left out.
    """
    total = sum(parts.values())
    named = [(name, value / total) for name, value in parts.items() if total and value / total >= 0.005]
    return ", ".join(f"{name} {percent(share, digits=0)}" for name, share in named)


def money(value: float, currency: str) -> str:
    """Format a price with two decimals, or with up to six if a price below 1 needs them for two significant digits."""
    digits = 2 if value >= 1 or value == 0 else min(6, 1 - math.floor(math.log10(value)))
    return f"{value:,.{max(2, digits)}f} {currency}"


def shorten(text: str, limit: int) -> str:
    """Return ``text``, or its first ``limit`` characters and the number of omitted characters if it is longer."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def visible(text: str) -> str:
    """Return ``text`` with its control characters, and those that turn text around, written as escapes.

    Line ends and tabs remain. Marks of direction and joiners remain, because several scripts need them.
    """
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def capitalized(text: str) -> str:
    """Return ``text`` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def keep_together(text: str) -> str:
    """Return ``text`` with a no-break space after each number that is followed by a unit or a noun."""
    return re.sub(r"(?<=\d) (?=[%\w])", "\u00a0", text)


def round_up(value: float) -> int:
    """Return ``value`` rounded up to two significant digits, such as 340 for 331."""
    step = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return int(math.ceil(value / step) * step)


def _fixed(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    if text.startswith("-"):
        return text[1:] if not text.strip("-0.") else MINUS + text[1:]
    return text
