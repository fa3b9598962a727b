"""Rows with the same query: what they do to the intervals of the report."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.evaluate.clusters import cluster_sums, count_clusters, design_effect, number_clusters
from promptintern.evaluate.intervals import Interval, bootstrap, newcombe_paired, paired_bootstrap, share_interval

VALUES = st.lists(st.sampled_from((0.0, 1.0)), min_size=1, max_size=30)


@given(st.lists(st.sampled_from("abcd")))
def test_equal_names_are_one_cluster(names: list[str]) -> None:
    numbers = number_clusters(names)
    assert count_clusters(numbers) == len(set(names))
    for name, number in zip(names, numbers, strict=True):
        assert number == numbers[names.index(name)]
    assert sorted(set(numbers)) == list(range(len(set(names))))


@given(VALUES, st.data())
def test_sums_keep_every_row(values: list[float], data: st.DataObject) -> None:
    clusters = data.draw(st.lists(st.integers(0, 5), min_size=len(values), max_size=len(values)))
    sums = cluster_sums(np.array(values)[:, None], clusters)
    assert len(sums) == len(set(clusters))
    assert sums.sum() == sum(values)


@given(VALUES, st.data())
def test_the_design_effect_lies_between_independent_and_equal_rows(values: list[float], data: st.DataObject) -> None:
    clusters = data.draw(st.lists(st.integers(0, 5), min_size=len(values), max_size=len(values)))
    assert 1 <= design_effect(values, clusters) <= len(values)
    assert design_effect(values, list(range(len(values)))) == design_effect(values, None) == 1


def test_copies_of_rows_are_worth_nothing() -> None:
    """Four copies of every row give the interval of the rows themselves, apart from C/(C-1)."""
    rng = np.random.default_rng(0)
    a, b = ((rng.random(200) < share).astype(float) for share in (0.7, 0.5))
    clusters = np.repeat(np.arange(200), 4).tolist()
    copies_a, copies_b = np.repeat(a, 4).tolist(), np.repeat(b, 4).tolist()
    for once, copied in (
        (share_interval(a.tolist()), share_interval(copies_a, clusters)),
        (newcombe_paired(a.tolist(), b.tolist()), newcombe_paired(copies_a, copies_b, clusters)),
        (bootstrap(a), bootstrap(copies_a, clusters)),
        (paired_bootstrap(a, b), paired_bootstrap(copies_a, copies_b, clusters)),
    ):
        assert copied.value == pytest.approx(once.value)
        assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.02)
        assert "200 clusters" in copied.method


def test_copies_of_rows_that_all_agree_are_worth_nothing() -> None:
    assert share_interval([1.0] * 40, [row // 4 for row in range(40)]).low == pytest.approx(
        share_interval([1.0] * 10).low
    )


@pytest.mark.parametrize("rate", [0.5, 0.9])
@pytest.mark.parametrize(
    "compare",
    [
        newcombe_paired,
        paired_bootstrap,
    ],
    ids=["Newcombe", "bootstrap"],
)
def test_intervals_cover_the_true_difference_although_queries_repeat(
    compare: Callable[[Sequence[float], Sequence[float], Sequence[int]], Interval], rate: float
) -> None:
    """Half of the queries appear once and half five times; every arm answers a query the same way each time."""
    sizes = [1, 5] * 60
    clusters = np.repeat(np.arange(len(sizes)), sizes).tolist()
    covered = narrow = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        a, b = ((np.repeat(rng.random(len(sizes)) < share, sizes)).astype(float).tolist() for share in (rate, 0.6))
        interval = compare(a, b, clusters)
        unaware = compare(a, b, list(range(len(a))))
        covered += interval.low <= rate - 0.6 <= interval.high
        narrow += unaware.low <= rate - 0.6 <= unaware.high
    assert covered / 300 >= 0.92
    assert narrow / 300 < 0.85, "rows that count as independent give intervals that are too narrow"


def test_a_cluster_for_every_row_is_required() -> None:
    with pytest.raises(ValueError, match="1 clusters for 2 rows"):
        share_interval([1.0, 0.0], [0])
