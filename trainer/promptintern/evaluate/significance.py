"""Tests of whether two arms differ on the same rows, Holm's correction for several of them, and what they can find."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptintern.evaluate.clusters import cluster_sums
from promptintern.evaluate.intervals import Interval, Score, Z

LEVEL = 0.05
"""The level of significance: the probability of finding a difference between arms that do not differ."""
POWER = 0.8
"""The probability with which a test should find the difference that `smallest_difference` returns."""
SHUFFLES = 10_000
_MAX_SIGNS_IN_MEMORY = 4_000_000


def exact_paired(a: Sequence[float], b: Sequence[float], clusters: Sequence[int] | None = None) -> float:
    """Return the p-value of McNemar's exact test, two-sided, of two arms that are right (1.0) or wrong (0.0).

    If the arms do not differ, they could be exchanged on any row. The p-value is the share of all such exchanges that
    leave a difference at least as large as the observed one. Rows that both arms answer right, or both wrong, do not
    matter. For the others the number that one arm answers right has a binomial distribution (Q. McNemar, Psychometrika
    12 (1947) 153-157). If rows form clusters, whole clusters are exchanged.

    Raises:
        ValueError: if the lengths differ.
    """
    if len(a) != len(b):
        raise ValueError(f"the arms' rows differ: {len(a)} and {len(b)}")
    differences = np.subtract(a, b, dtype=np.float64)[:, None]
    sums = np.rint(cluster_sums(differences, clusters)[:, 0]).astype(np.int64)
    weights, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    # The probability of every total of the clusters' differences, from -reach to reach.
    totals = np.ones(1)
    for weight, count in zip(weights.tolist(), counts.tolist(), strict=True):
        spaced = np.zeros(2 * weight * count + 1)
        spaced[:: 2 * weight] = _binomial(count)
        totals = np.convolve(totals, spaced)
    reach = len(totals) // 2
    observed = abs(int(sums.sum()))
    distance = np.abs(np.arange(-reach, reach + 1))
    return min(1.0, math.fsum(totals[distance >= observed]))


def _binomial(n: int) -> NDArray[np.float64]:
    """Return the probabilities of 0 to ``n`` heads in ``n`` tosses of a fair coin."""
    logarithms = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    return np.exp(np.array(logarithms) - n * math.log(2))


def randomization(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[int] | None = None,
    *,
    score: Score,
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> float:
    """Return the p-value of approximate randomization, two-sided, of score(a) - score(b).

    The arms are exchanged on each row, or cluster of rows, with probability 1/2. The p-value is the share of such
    exchanges that leave a difference at least as large as the observed one, which itself counts as one of them (S.
    Riezler and J. Maxwell, ACL 2005 workshop on evaluation measures, 57-64).

    Args:
        a: Statistics of every row with the first arm's answers, shape [rows, statistics].
        b: Statistics of the same rows with the second arm's answers, in the same shape.
        clusters: The cluster of every row. Default: every row is a cluster of its own.
        score: Computes scores from sums of statistics and the number of rows.

    Raises:
        ValueError: if the shapes differ.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"the arms' rows differ: shapes {first.shape} and {second.shape}")
    rows = np.full((1, 1), float(len(first)))
    centre = (first + second).sum(axis=0, keepdims=True) / 2
    halves = cluster_sums((first - second) / 2, clusters)
    halves = halves[halves.any(axis=1)]

    def differences(moved: NDArray[np.float64]) -> NDArray[np.float64]:
        count = np.repeat(rows, len(moved), axis=0)
        return score(np.hstack([centre + moved, count])) - score(np.hstack([centre - moved, count]))

    observed = abs(float(differences(halves.sum(axis=0, keepdims=True))[0]))
    rng = np.random.default_rng(seed)
    at_once = max(1, _MAX_SIGNS_IN_MEMORY // max(len(halves), 1))
    as_large = 0
    for done in range(0, shuffles, at_once):
        signs = rng.choice((-1.0, 1.0), size=(min(at_once, shuffles - done), len(halves)))
        as_large += int((np.abs(differences(signs @ halves)) >= observed - _ROUNDING).sum())
    return (as_large + 1) / (shuffles + 1)


_ROUNDING = 1e-9
"""The tolerance for rounding errors when scores of exchanged rows are compared with the observed score."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values after Holm's correction for the number of tests (S. Holm, Scand. J. Statist. 6 (1979) 65-70).

    With the corrected values, the probability of finding any difference where there is none is at most the level of
    significance, however the tests depend on each other.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def smallest_difference(interval: Interval) -> float:
    """Return the smallest difference that a single test on as many rows would find with probability ``POWER``.

    It is (z_(1-LEVEL/2) + z_POWER) standard errors, where the standard error follows from the interval's width (H. S.
    Bloom, Evaluation Review 19 (1995) 547-556: the minimum detectable effect).
    """
    standard_error = (interval.high - interval.low) / (2 * Z)
    return (NormalDist().inv_cdf(1 - LEVEL / 2) + NormalDist().inv_cdf(POWER)) * standard_error


def fewest_rows() -> int:
    """Return the number of rows below which McNemar's exact test cannot find a difference, even the largest one."""
    return math.ceil(1 - math.log2(LEVEL))
