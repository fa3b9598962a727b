"""chrF, a score of character n-grams (M. Popović, WMT 2015), as sacrebleu computes it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sacrebleu.metrics import CHRF

from promptintern.evaluate.metrics import references_of

_ORDER = 6
_BETA = 2
STATISTICS = 3 * _ORDER
"""The number of statistics of a row."""


def chrf_per_row_statistics(predictions: Sequence[str], accepted: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Return the chrF statistics of every row. Their sum over any set of rows gives the corpus chrF of that set.

    Of several accepted answers, the one with the highest chrF counts.

    Returns:
        An array of shape [rows, 18]: the numbers of n-grams of the prediction, of the answer, and in both, for every n
        from 1 to 6.

    Raises:
        ValueError: if the lengths differ.
    """
    metric: Any = CHRF(char_order=_ORDER, beta=_BETA)
    rows = [
        metric._extract_corpus_statistics([prediction], [[answer] for answer in answers])[0]
        for prediction, answers in zip(predictions, accepted, strict=True)
    ]
    return np.array(rows, dtype=np.int64).reshape(len(rows), STATISTICS)


def chrf_of_statistics(sums: ArrayLike) -> NDArray[np.float64]:
    """Return corpus chrF scores, from 0 to 100, shape [sets], from summed row statistics, shape [sets, 18 or more].

    chrF is 100 (1 + b^2) P R / (b^2 P + R) with b = 2, where P and R are the means of precision and recall over the n
    for which both texts have n-grams. Only the first 18 statistics are used.
    """
    table = np.asarray(sums, dtype=np.float64)[:, :STATISTICS].reshape(-1, _ORDER, 3)
    predicted, expected, matched = table[:, :, 0], table[:, :, 1], table[:, :, 2]
    counted = (predicted > 0) & (expected > 0)
    orders = np.maximum(counted.sum(axis=1), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(counted, matched / predicted, 0.0).sum(axis=1) / orders
        recall = np.where(counted, matched / expected, 0.0).sum(axis=1) / orders
        score = 100 * (1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall)
    return np.where(precision + recall > 0, score, 0.0)


def chrf_signature(predictions: Sequence[str], accepted: Sequence[Sequence[str]]) -> str:
    """Return the signature of sacrebleu, which names the number of references, the settings and the version."""
    metric: Any = CHRF(char_order=_ORDER, beta=_BETA)
    metric.corpus_score(list(predictions), references_of(accepted))
    return str(metric.get_signature())
