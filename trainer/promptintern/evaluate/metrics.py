"""Exact match and BLEU of predictions against the accepted answers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from promptintern_api.metrics import Normalizer
from sacrebleu.metrics import BLEU

from promptintern.evaluate.normalizers import normalise

_MAX_ORDER = 4
_SMOOTHING = "exp"


@dataclass(frozen=True, kw_only=True)
class BleuScore:
    """A corpus BLEU score, from 0 to 100, and the settings that reproduce it."""

    score: float
    signature: str
    """The signature of sacrebleu: case, tokenizer, smoothing, number of references and version."""


def exact_match(
    predictions: Sequence[str], accepted: Sequence[Sequence[str]], normalizers: Collection[Normalizer] = ()
) -> list[float]:
    """Return 1.0 for every row whose prediction equals an accepted answer after ``normalise``, else 0.0.

    Raises:
        ValueError: if the lengths differ or a row has no accepted answer.
    """
    _check(predictions, accepted)
    return [
        float(normalise(prediction, normalizers) in {normalise(answer, normalizers) for answer in answers})
        for prediction, answers in zip(predictions, accepted, strict=True)
    ]


def bleu(predictions: Sequence[str], accepted: Sequence[Sequence[str]]) -> BleuScore:
    """Return sacrebleu's corpus BLEU (13a tokens, mixed case, exponential smoothing).

    Rows may have different numbers of accepted answers. If the predictions contain no 4-gram, the score is 0, as
    sacrebleu defines it.

    Raises:
        ValueError: if the lengths differ, there is no row, or a row has no accepted answer.
    """
    _check(predictions, accepted)
    if not predictions:
        raise ValueError("BLEU needs at least one row")
    metric = _metric()
    score = metric.corpus_score(list(predictions), references_of(accepted))
    return BleuScore(score=float(score.score), signature=str(metric.get_signature()))


def references_of(accepted: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Return the accepted answers of all rows as sacrebleu takes them: one list for each reference.

    A row with fewer references has None in the later lists.
    """
    most = max(map(len, accepted))
    return [[answers[i] if i < len(answers) else None for answers in accepted] for i in range(most)]


def bleu_per_row_statistics(predictions: Sequence[str], accepted: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Return the BLEU statistics of every row. Their sum over any set of rows gives the corpus BLEU of that set.

    Returns:
        An array of shape [rows, 10] with the numbers of tokens, tokens of the closest reference, matched 1- to 4-grams,
        and all 1- to 4-grams.

    Raises:
        ValueError: if the lengths differ or a row has no accepted answer.
    """
    _check(predictions, accepted)
    metric = _metric()
    scores = [
        metric.corpus_score([prediction], [[answer] for answer in answers])
        for prediction, answers in zip(predictions, accepted, strict=True)
    ]
    rows = [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores]
    return np.array(rows, dtype=np.int64).reshape(len(rows), 2 + 2 * _MAX_ORDER)


def bleu_of_statistics(sums: ArrayLike) -> NDArray[np.float64]:
    """Return corpus BLEU scores, from 0 to 100, shape [sets], from summed row statistics, shape [sets, 10 or more].

    Only the first 10 statistics are used.

    BLEU is the brevity penalty min(1, exp(1 - r / c)) times the geometric mean of the precisions (Papineni et al., ACL
    2002). The k-th n-gram order without a match counts as 1 / 2^k matches (sacrebleu's smoothing ``exp``). This is
    sacrebleu's formula, vectorized for thousands of resamples.
    """
    table = np.asarray(sums, dtype=np.float64)
    length, reference = table[:, 0], table[:, 1]
    matched, total = table[:, 2 : 2 + _MAX_ORDER], table[:, 2 + _MAX_ORDER : 2 + 2 * _MAX_ORDER]
    counted = np.where(matched > 0, matched, 0.5 ** np.cumsum(matched == 0, axis=1))
    defined = matched.any(axis=1) & (total > 0).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        penalty = np.exp(np.minimum(0.0, 1 - reference / length))
        score = 100 * penalty * np.exp(np.log(counted / total).mean(axis=1))
    return np.where(defined, score, 0.0)


def _metric() -> Any:
    # `force` only silences sacrebleu's warning about text that looks tokenized. Code often looks tokenized.
    return BLEU(smooth_method=_SMOOTHING, max_ngram_order=_MAX_ORDER, force=True)


def _check(predictions: Sequence[str], accepted: Sequence[Sequence[str]]) -> None:
    if len(predictions) != len(accepted):
        raise ValueError(f"{len(predictions)} predictions for {len(accepted)} rows")
    for row, answers in enumerate(accepted):
        if isinstance(answers, str) or not answers:
            raise ValueError(f"row {row} must have a list of at least one accepted answer")
