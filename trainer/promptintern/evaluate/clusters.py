"""Clusters of held-out rows: rows with the same query, which a model answers alike, so that they count less."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def number_clusters(names: Iterable[str]) -> list[int]:
    """Return the number of each name's cluster, from 0 in the order in which the names first appear."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]


def count_clusters(clusters: Sequence[int]) -> int:
    """Return the number of clusters."""
    return len(set(clusters))


def cluster_sums(table: NDArray[np.float64], clusters: Sequence[int] | None) -> NDArray[np.float64]:
    """Return the sums of every cluster's rows, shape [clusters, statistics], from shape [rows, statistics].

    Raises:
        ValueError: if ``clusters`` does not name the cluster of every row.
    """
    if clusters is None:
        return table
    if len(clusters) != len(table):
        raise ValueError(f"{len(clusters)} clusters for {len(table)} rows")
    _, numbers = np.unique(clusters, return_inverse=True)
    sums = np.zeros((numbers.max(initial=-1) + 1, table.shape[1]))
    np.add.at(sums, numbers, table)
    return sums


def design_effect(values: ArrayLike, clusters: Sequence[int] | None) -> float:
    """Return by what factor clusters raise the variance of the mean of ``values``, between 1 and the number of rows.

    It is the ratio of the variance that allows for clusters, C/(C-1) sum_c (sum_i r_i)^2, to the one that does not,
    sum_i r_i^2, where r_i are the distances of the values from their mean, c the clusters and C their number (J. N. K.
    Rao and A. J. Scott, Biometrics 48 (1992) 577-585). If all values are equal, they do not show how alike the rows of
    a cluster are. Then the rows of a cluster count as equal, for which L. Kish (Survey Sampling, 1965) gives
    sum_c m_c^2 / n, where m_c is the number of rows of a cluster and n the number of all rows.

    Args:
        values: A value for every row.
        clusters: The cluster of every row, or None if every row is a cluster of its own.

    Raises:
        ValueError: if ``clusters`` does not name the cluster of every row.
    """
    numbers = np.asarray(values, dtype=np.float64)
    rows = len(numbers)
    if clusters is None or rows == 0:
        return 1.0
    residuals = numbers - numbers.mean()
    sums = cluster_sums(np.column_stack([residuals, np.ones(rows)]), clusters)
    count = len(sums)
    if count == rows:
        return 1.0
    spread = float(np.square(residuals).sum())
    if count == 1 or spread <= _TINY * rows:
        return float(np.square(sums[:, 1]).sum()) / rows
    effect = count / (count - 1) * float(np.square(sums[:, 0]).sum()) / spread
    return min(max(effect, 1.0), float(rows))


_TINY = 1e-12
"""The variance below which values that differ only by rounding count as equal."""
