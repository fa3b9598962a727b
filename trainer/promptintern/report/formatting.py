"""Formats numbers as text, for the report, the terminal and messages."""

import math
import re
from datetime import timedelta

from promptintern_api.evaluation import Metric

MINUS = "\u2212"
METRIC_NAMES = {Metric.EXACT_MATCH: "exact match", Metric.BLEU: "BLEU"}


def score(metric: Metric, value: float) -> str:
    """Return a score: ``97.0 %`` for exact match, ``45.2`` for BLEU."""
    return f"{_fixed(value, 1)}" if metric is Metric.BLEU else percent(value, digits=1)


def named_score(metric: Metric, value: float) -> str:
    """Return a score with its metric: ``97.0 % exact match`` or ``BLEU 45.2``."""
    return f"BLEU {score(metric, value)}" if metric is Metric.BLEU else f"{score(metric, value)} exact match"


def difference(metric: Metric, value: float, *, unit: bool = True) -> str:
    """Return a signed difference in points, which are percentage points for exact match."""
    text = signed(value if metric is Metric.BLEU else 100 * value)
    return f"{text} points" if unit else text


def points(metric: Metric, value: float) -> str:
    """Return an unsigned number of points, such as ``2 points``."""
    text = number(value if metric is Metric.BLEU else 100 * value)
    return f"{text} {'point' if text == '1' else 'points'}"


def metric_range(metric: Metric) -> float:
    """Return the metric's largest score: 1 for exact match, 100 for BLEU."""
    return 100.0 if metric is Metric.BLEU else 1.0


def percent(share: float, *, digits: int | None = None) -> str:
    """Return a share as a percentage.

    By default, a share of 98.5 % or more has one decimal and a smaller share has none, and a share below 1 is never
    shown as ``100 %``.
    """
    if digits is None:
        digits = 0 if share == 1 or abs(share) < 0.985 else 1
        if digits and _fixed(100 * share, digits) == "100.0" and share < 1:
            return "over 99.9 %"
    return f"{_fixed(100 * share, digits)} %"


def signed(value: float, *, digits: int = 1) -> str:
    """Return a number with its sign: ``+1.5``, ``−0.5`` or ``0.0``."""
    text = _fixed(value, digits)
    return text if text.startswith(MINUS) or not text.strip("0.") else f"+{text}"


def number(value: float) -> str:
    """Return a number with at most two decimals and without trailing zeros."""
    text = _fixed(value, 2)
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: float) -> str:
    """Return a whole number with commas between groups of three digits."""
    return f"{round(value):,}"


def mean(value: float) -> str:
    """Return a mean or a rate, with one decimal if it is below 100 and with none otherwise."""
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def ratio(value: float) -> str:
    """Return a factor, such as ``4.2×``."""
    return f"{value:.1f}×" if value < 100 else f"{value:,.0f}×"


def seconds(value: float) -> str:
    """Return a short time: ``4.1 ms``, ``320 ms``, ``1.25 s``."""
    if value < 1:
        return f"{1000 * value:.1f} ms" if value < 0.01 else f"{1000 * value:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def duration(value: float) -> str:
    """Return a long time: ``48 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(timedelta(seconds=value).total_seconds()), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def money(value: float, currency: str) -> str:
    """Return a price with two decimals, or with more if two would show fewer than two significant digits."""
    digits = 2 if value >= 1 or value == 0 else min(6, 1 - math.floor(math.log10(value)))
    return f"{value:,.{max(2, digits)}f} {currency}"


def shorten(text: str, limit: int) -> str:
    """Return ``text`` cut to ``limit`` characters, followed by the number of characters that were cut, if any."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def capitalized(text: str) -> str:
    """Return ``text`` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def keep_together(text: str) -> str:
    """Return ``text`` with no-break spaces between each number and its unit or noun."""
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
