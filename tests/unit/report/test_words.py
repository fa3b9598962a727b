"""Figures as text."""

from collections.abc import Callable
from typing import Any

import pytest
from promptintern.report import words
from promptintern_api.evaluation import Metric

EM, BLEU = Metric.EXACT_MATCH, Metric.BLEU


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        (words.score, (EM, 0.97), "97.0 %"),
        (words.score, (BLEU, 45.25), "45.2"),
        (words.score_sentence, (EM, 1), "100.0 % exact match"),
        (words.score_sentence, (BLEU, 7), "BLEU 7.0"),
        (words.difference, (EM, -0.005), "−0.5 points"),
        (words.difference, (EM, 0.0001), "0.0 points"),
        (words.difference, (EM, -0.0001), "0.0 points"),
        (words.difference, (BLEU, 3), "+3.0 points"),
        (words.points, (EM, 0.01), "1 point"),
        (words.points, (EM, 0.025), "2.5 points"),
        (words.percent, (0.934,), "93 %"),
        (words.percent, (0.9876,), "98.8 %"),
        (words.percent, (0.99999,), "over 99.9 %"),
        (words.percent, (1.0,), "100 %"),
        (words.percent, (-0.2,), "−20 %"),
        (words.tokens, (7.04,), "7.0"),
        (words.tokens, (12345.6,), "12,346"),
        (words.seconds, (0.0041,), "4.1 ms"),
        (words.seconds, (0.32,), "320 ms"),
        (words.seconds, (1.25,), "1.25 s"),
        (words.duration, (48,), "48 s"),
        (words.duration, (200,), "3 min 20 s"),
        (words.duration, (59.7,), "60 s"),
        (words.duration, (7500,), "2 h 5 min"),
        (words.money, (0.0123, "EUR"), "0.012 EUR"),
        (words.money, (12, "EUR"), "12.00 EUR"),
        (words.money, (0, "EUR"), "0.00 EUR"),
        (words.ratio, (4.21,), "4.2×"),
        (words.rounded_up, (331,), 340),
        (words.rounded_up, (7,), 7),
        (words.shorten, ("abcdef", 6), "abcdef"),
        (words.shorten, ("abcdefg", 6), "abcdef… (1 more characters)"),
        (words.unbroken, ("97.0 % of 20 rows",), "97.0\u00a0% of 20\u00a0rows"),
    ],
)
def test_words(function: Callable[..., Any], arguments: tuple[Any, ...], text: object) -> None:
    assert function(*arguments) == text
