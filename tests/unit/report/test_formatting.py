"""Numbers as text."""

from collections.abc import Callable
from typing import Any

import pytest
from promptintern.report import formatting
from promptintern_api.metrics import Metric

EM, BLEU = Metric.EXACT_MATCH, Metric.BLEU


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        (formatting.score, (EM, 0.97), "97.0 %"),
        (formatting.score, (BLEU, 45.25), "45.2"),
        (formatting.named_score, (EM, 1), "100.0 % exact match"),
        (formatting.named_score, (BLEU, 7), "BLEU 7.0"),
        (formatting.difference, (EM, -0.005), "−0.5 points"),
        (formatting.difference, (EM, 0.0001), "0.0 points"),
        (formatting.difference, (EM, -0.0001), "0.0 points"),
        (formatting.difference, (BLEU, 3), "+3.0 points"),
        (formatting.points, (EM, 0.01), "1 point"),
        (formatting.points, (EM, 0.025), "2.5 points"),
        (formatting.percent, (0.934,), "93 %"),
        (formatting.percent, (0.9876,), "98.8 %"),
        (formatting.percent, (0.99999,), "over 99.9 %"),
        (formatting.percent, (1.0,), "100 %"),
        (formatting.percent, (-0.2,), "−20 %"),
        (formatting.mean, (7.04,), "7.0"),
        (formatting.mean, (12345.6,), "12,346"),
        (formatting.seconds, (0.0041,), "4.1 ms"),
        (formatting.seconds, (0.32,), "320 ms"),
        (formatting.seconds, (1.25,), "1.25 s"),
        (formatting.duration, (48,), "48 s"),
        (formatting.duration, (200,), "3 min 20 s"),
        (formatting.duration, (59.7,), "60 s"),
        (formatting.duration, (7500,), "2 h 5 min"),
        (formatting.money, (0.0123, "EUR"), "0.012 EUR"),
        (formatting.money, (12, "EUR"), "12.00 EUR"),
        (formatting.money, (0, "EUR"), "0.00 EUR"),
        (formatting.ratio, (4.21,), "4.2×"),
        (formatting.round_up, (331,), 340),
        (formatting.round_up, (7,), 7),
        (formatting.shorten, ("abcdef", 6), "abcdef"),
        (formatting.shorten, ("abcdefg", 6), "abcdef… (1 more characters)"),
        (formatting.keep_together, ("97.0 % of 20 rows",), "97.0\u00a0% of 20\u00a0rows"),
    ],
)
def test_figures_as_text(function: Callable[..., Any], arguments: tuple[Any, ...], text: object) -> None:
    assert function(*arguments) == text
