"""The metrics of a job: how each of them turns answers into statistics of rows, and their sums into a score."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from promptintern_api.metrics import Metric, Normalizer

from promptintern.evaluate.bash_template import template_match
from promptintern.evaluate.chrf import chrf_of_statistics, chrf_per_row_statistics
from promptintern.evaluate.intervals import Score, Table, mean_of_sums
from promptintern.evaluate.metrics import bleu_of_statistics, bleu_per_row_statistics, exact_match


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of an arm or stage, with what they are compared with. Each list has one item for each row."""

    predictions: Sequence[str]
    accepted: Sequence[Sequence[str]]
    passed: Sequence[bool] | None = None
    """Whether the program in each answer passed its tests; None if no program was run."""
    numbers: Sequence[float | None] | None = None
    """The number that the user's scorer gave each answer, 0 to 100; None for an answer on which it failed, which counts
    as 0. None instead of the list if there is no scorer."""
    normalizers: Collection[Normalizer] = ()
    """The differences that ExactMatch ignores."""


def row_statistics(metric: Metric, answers: Answers) -> Table:
    """Return the statistics of every row, shape [rows, statistics].

    Raises:
        ValueError: if the metric needs programs or a scorer that did not run.
    """
    predictions, accepted = answers.predictions, answers.accepted
    match metric:
        case Metric.BLEU:
            return bleu_per_row_statistics(predictions, accepted).astype(np.float64)
        case Metric.CHRF:
            return chrf_per_row_statistics(predictions, accepted).astype(np.float64)
        case Metric.EXACT_MATCH:
            return np.array(exact_match(predictions, accepted, answers.normalizers))[:, None]
        case Metric.BASH_TEMPLATE:
            return np.array(template_match(predictions, accepted))[:, None]
        case Metric.PASS_AT_1:
            if answers.passed is None:
                raise ValueError(f"{metric} needs to know which programs passed their tests")
            return np.array(answers.passed, dtype=np.float64)[:, None]
        case Metric.SCORER:
            if answers.numbers is None:
                raise ValueError(f"{metric} needs the numbers of the scorer")
            return np.array([number or 0.0 for number in answers.numbers])[:, None]


def score_of(metric: Metric) -> Score:
    """Return the function that computes scores from sums of statistics, the last of which is the number of rows."""
    return {Metric.BLEU: bleu_of_statistics, Metric.CHRF: chrf_of_statistics}.get(metric, mean_of_sums)


def score_answers(metric: Metric, answers: Answers) -> float:
    """Return the score of ``answers``: a share (0 to 1) if ``metric.is_share``, otherwise a number from 0 to 100."""
    statistics = row_statistics(metric, answers)
    sums = np.append(statistics.sum(axis=0), float(len(statistics)))
    return float(score_of(metric)(sums[None, :])[0])


def is_within_drop(metric: Metric, score: float, reference: float, max_drop: float) -> bool:
    """Return whether ``score`` is at most ``max_drop``, as a share of the metric's range, below ``reference``."""
    # The tolerance covers the rounding of float sums, and is far below the weight of one row.
    return (reference - score) / metric.largest <= max_drop + 1e-9
