"""The interval of an arm's score, and the comparison of two arms on the same rows, in any metric."""

from collections.abc import Iterable, Sequence

from promptintern_api.metrics import Metric

from promptintern.evaluate.clusters import number_clusters
from promptintern.evaluate.intervals import (
    Interval,
    Table,
    bootstrap,
    newcombe_paired,
    paired_bootstrap,
    share_interval,
)
from promptintern.evaluate.scoring import score_of
from promptintern.evaluate.significance import exact_paired, randomization
from promptintern.rows.duplicates import normalise_query


def clusters_of(queries: Iterable[str]) -> list[int]:
    """Return the cluster of each row: rows whose queries are equal after `normalise_query` are one cluster."""
    return number_clusters(map(normalise_query, queries))


def score_interval(metric: Metric, table: Table, clusters: Sequence[int]) -> Interval:
    """Return the interval of an arm's score.

    Args:
        metric: The metric.
        table: The statistics of the arm's answer to each row, shape [rows, statistics].
        clusters: The cluster of each row.
    """
    if metric.is_share:
        return share_interval(matches_of(table), clusters)
    return bootstrap(table, clusters, score=score_of(metric))


def compare(metric: Metric, arm: Table, against: Table, clusters: Sequence[int]) -> tuple[Interval, float]:
    """Return the interval of the difference of two arms, and the p-value of their test.

    The arguments are those of `score_interval`, with the statistics of both arms.
    """
    if metric.is_share:
        matches, others = matches_of(arm), matches_of(against)
        return newcombe_paired(matches, others, clusters), exact_paired(matches, others, clusters)
    score = score_of(metric)
    return (
        paired_bootstrap(arm, against, clusters, score=score),
        randomization(arm, against, clusters, score=score),
    )


def matches_of(table: Table) -> list[float]:
    """Return 1.0 for each row that is answered right, and 0.0 for the others, from the statistics of a share."""
    matches: list[float] = table[:, 0].tolist()
    return matches
