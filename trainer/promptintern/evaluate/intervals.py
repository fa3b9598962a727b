"""95 % confidence intervals of a share, of a score, and of the difference between two arms on the same rows.

Rows with the same query are one cluster, because a model answers them alike. The intervals allow for this: those of
shares by a design effect, and those of the bootstrap by drawing whole clusters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptintern.evaluate.clusters import cluster_sums, count_clusters, design_effect

CONFIDENCE = 0.95
RESAMPLES = 2000
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""The number of standard errors on each side of a 95 % interval, 1.96."""

_TAIL = (1 - CONFIDENCE) / 2
_MAX_DRAWS_IN_MEMORY = 4_000_000
"""The largest number of multinomial counts (8 bytes each) that are in memory at the same time."""

Table = NDArray[np.float64]
Score = Callable[[Table], NDArray[np.float64]]
"""A function that computes scores, shape [sets], from sums of statistics over rows, shape [sets, statistics + 1].

The last of the sums is the number of rows.
"""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    method: str


def wilson(successes: int, n: int, *, effect: float = 1.0) -> Interval:
    """Return the interval of a share, as Wilson's score interval without continuity correction.

    The limits are (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n); see E. B. Wilson, JASA 22 (1927) 209-212.
    Unlike the normal approximation, the interval stays between 0 and 1, and its width is not zero even if all rows
    agree.

    Args:
        successes: The number of rows that are right.
        n: The number of rows.
        effect: The design effect, by which the number of rows is divided.

    Raises:
        ValueError: if ``n`` is not positive or ``successes`` is not between 0 and ``n``.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    share, size = successes / n, n / effect
    centre = share + Z**2 / (2 * size)
    half = Z * math.sqrt(share * (1 - share) / size + Z**2 / (4 * size**2))
    scale = 1 + Z**2 / size
    return Interval(
        value=share,
        # For shares 0 and 1 the bound equals the share, and rounding must not move it past the share.
        low=min(share, max(0.0, (centre - half) / scale)) if successes else 0.0,
        high=max(share, min(1.0, (centre + half) / scale)) if successes < n else 1.0,
        method="Wilson 95 %",
    )


def share_interval(matches: Sequence[float], clusters: Sequence[int] | None = None) -> Interval:
    """Return the interval of the share of rows that are right: Wilson's, with the design effect of the clusters.

    Args:
        matches: 1.0 for every row that is right, 0.0 for the others.
        clusters: The cluster of every row. Default: every row is a cluster of its own.

    Raises:
        ValueError: if there is no row.
    """
    n = _same_length(matches, matches)
    interval = wilson(int(sum(matches)), n, effect=design_effect(matches, clusters))
    return _with_clusters(interval, clusters)


def newcombe_paired(a: Sequence[float], b: Sequence[float], clusters: Sequence[int] | None = None) -> Interval:
    """Return the interval of mean(a) - mean(b) for two arms, each right (1.0) or wrong (0.0) on the same rows.

    This is Newcombe's hybrid score interval for paired proportions (method 10 of R. G. Newcombe, Statistics in Medicine
    17 (1998) 2635-2650). It combines the Wilson limits of both shares with the correlation between the arms. Its width
    is not zero even if all rows have the same difference; the width of the bootstrap interval would then be zero. If
    rows form clusters, all counts are divided by the design effect of the rows' differences (J. N. K. Rao and A. J.
    Scott, Biometrics 48 (1992) 577-585).

    Raises:
        ValueError: if the lengths differ, there is no row, or a value is neither 0 nor 1.
    """
    n = _same_length(a, b)
    if not set(a) | set(b) <= {0.0, 1.0}:
        raise ValueError("newcombe_paired needs rows that are right (1.0) or wrong (0.0)")
    effect = design_effect(np.subtract(a, b), clusters)
    both = sum(x == y == 1.0 for x, y in zip(a, b, strict=True)) / effect
    neither = sum(x == y == 0.0 for x, y in zip(a, b, strict=True)) / effect
    first, second = (wilson(int(sum(arm)), n, effect=effect) for arm in (a, b))
    only_first, only_second = sum(a) / effect - both, sum(b) / effect - both
    association = both * neither - only_first * only_second
    if association > 0:
        association = max(association - n / effect / 2, 0.0)
    spread = math.sqrt((both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither))
    correlation = association / spread if spread else 0.0
    difference = first.value - second.value

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(0.0, down**2 - 2 * correlation * down * up + up**2))

    interval = Interval(
        value=difference,
        low=max(-1.0, difference - reach(first.value - first.low, second.high - second.value)),
        high=min(1.0, difference + reach(first.high - first.value, second.value - second.low)),
        method="Newcombe paired 95 %",
    )
    return _with_clusters(interval, clusters)


def bootstrap(
    statistics: ArrayLike,
    clusters: Sequence[int] | None = None,
    *,
    score: Score | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the bootstrap percentile interval of a score over resampled rows.

    Args:
        statistics: Statistics of every row, shape [rows] or [rows, statistics].
        clusters: The cluster of every row; whole clusters are drawn. Default: every row is a cluster of its own.
        score: Computes scores from sums of statistics. Default: the mean of the first statistic.

    Raises:
        ValueError: if there is no row.
    """
    table = _table(statistics)
    _same_length(table, table)
    return _bootstrap(table, clusters, score or mean_of_sums, resamples, seed, "bootstrap 95 %")


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[int] | None = None,
    *,
    score: Score | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the bootstrap percentile interval of score(a) - score(b), both over the same resampled rows.

    By default, this is the difference of means. For corpus BLEU, ``a`` and ``b`` are the statistics of
    `bleu_per_row_statistics`, and the BLEU of each resample is computed from their sums (P. Koehn, EMNLP 2004).

    Args:
        a: Statistics of every row with the first arm's answers, shape [rows] or [rows, statistics].
        b: Statistics of the same rows with the second arm's answers, in the same shape.
        clusters: The cluster of every row; whole clusters are drawn. Default: every row is a cluster of its own.
        score: Computes scores from sums of statistics. Default: the mean of the first statistic.

    Raises:
        ValueError: if the shapes differ or there is no row.
    """
    first, second = _table(a), _table(b)
    _same_length(first, second)
    width, of_sums = first.shape[1], score or mean_of_sums

    def difference(sums: Table) -> NDArray[np.float64]:
        rows = sums[:, 2 * width :]
        return of_sums(np.hstack([sums[:, :width], rows])) - of_sums(np.hstack([sums[:, width : 2 * width], rows]))

    both = np.hstack([first, second])
    return _bootstrap(both, clusters, difference, resamples, seed, "paired bootstrap 95 %")


def mean_of_sums(sums: Table) -> NDArray[np.float64]:
    """Return means of the first statistic; the last statistic is the number of rows."""
    return np.asarray(sums[:, 0] / sums[:, -1])


def _bootstrap(
    table: Table, clusters: Sequence[int] | None, of_sums: Score, resamples: int, seed: int, method: str
) -> Interval:
    """Return the bootstrap interval of a score that ``of_sums`` computes from sums, the last of which counts rows."""
    counted = cluster_sums(np.hstack([table, np.ones((len(table), 1))]), clusters)
    low, high = np.quantile(of_sums(_resampled_sums(counted, resamples, seed)), [_TAIL, 1 - _TAIL])
    value = float(of_sums(counted.sum(axis=0, keepdims=True))[0])
    interval = Interval(
        value=value, low=float(low), high=float(high), method=f"{method}, {resamples} resamples, seed {seed}"
    )
    return _with_clusters(interval, clusters)


def _with_clusters(interval: Interval, clusters: Sequence[int] | None) -> Interval:
    """Return ``interval`` with a method that tells the number of clusters, if any cluster has several rows."""
    if clusters is None or (count := count_clusters(clusters)) == len(clusters):
        return interval
    return replace(interval, method=f"{interval.method}, {count} clusters of rows with the same query")


def _resampled_sums(table: Table, resamples: int, seed: int) -> Table:
    """Return sums of statistics over clusters that are drawn with replacement, shape [resamples, statistics].

    Clusters with equal statistics are interchangeable, so a resample is a multinomial draw over the distinct clusters.
    """
    distinct, counts = np.unique(table, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    at_once = max(1, _MAX_DRAWS_IN_MEMORY // len(distinct))
    parts = [
        rng.multinomial(len(table), counts / len(table), size=min(at_once, resamples - done)) @ distinct
        for done in range(0, resamples, at_once)
    ]
    return np.concatenate(parts)


def _table(statistics: ArrayLike) -> Table:
    table = np.asarray(statistics, dtype=np.float64)
    return table[:, None] if table.ndim == 1 else table


def _same_length(a: ArrayLike, b: ArrayLike) -> int:
    first, second = np.shape(a), np.shape(b)
    if first != second:
        raise ValueError(f"the arms' rows differ: shapes {first} and {second}")
    if not first[0]:
        raise ValueError("there is no row")
    return int(first[0])
