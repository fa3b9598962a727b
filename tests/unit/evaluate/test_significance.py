"""Tests of differences against scipy and statsmodels, and how often they find one where there is none."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from promptintern.evaluate.intervals import newcombe_paired, paired_bootstrap
from promptintern.evaluate.metrics import bleu_of_statistics, bleu_per_row_statistics
from promptintern.evaluate.significance import (
    LEVEL,
    exact_paired,
    fewest_rows,
    holm,
    randomization,
    smallest_difference,
)
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

COUNTS = st.tuples(*[st.integers(0, 40)] * 4).filter(any)


def arms_of(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[float], list[float]]:
    """Return the rows of two arms with these numbers of rows that both, one or none of them answers right."""
    a = [1.0] * both + [1.0] * only_a + [0.0] * only_b + [0.0] * neither
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return a, b


@given(COUNTS)
def test_mcnemars_test_is_that_of_scipy_and_statsmodels(counts: tuple[int, int, int, int]) -> None:
    both, only_a, only_b, neither = counts
    p_value = exact_paired(*arms_of(*counts))
    if only_a + only_b:
        assert p_value == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)
    table = [[both, only_a], [only_b, neither]]
    assert p_value == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from((0.0, 1.0)), st.sampled_from((0.0, 1.0))), max_size=12))
def test_clusters_are_exchanged_as_a_whole(rows: list[tuple[int, float, float]]) -> None:
    """The p-value is the share of all exchanges of clusters, counted one by one."""
    clusters, a, b = ([row[i] for row in rows] for i in range(3))
    names = sorted(set(clusters))
    sums = [sum(x - y for cluster, x, y in rows if cluster == name) for name in names]
    totals = [
        abs(sum(s * sign for s, sign in zip(sums, signs, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(names))
    ]
    expected = np.mean([total >= abs(sum(sums)) for total in totals])
    assert exact_paired(a, b, clusters) == pytest.approx(float(expected))


def test_many_rows_are_no_obstacle() -> None:
    p_value = exact_paired(*arms_of(50_000, 20_400, 20_000, 9_600))
    assert p_value == pytest.approx(stats.binomtest(20_400, 40_400).pvalue, rel=1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_no_test_is_no_error() -> None:
    assert holm([]) == []


def _mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(sums[:, 0] / sums[:, -1])


def test_randomization_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=40)
    b = a + rng.normal(0.3, 1, size=40)
    ours = randomization(a[:, None], b[:, None], score=_mean, seed=2)
    theirs = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=20_000, rng=3
    )
    assert ours == pytest.approx(theirs.pvalue, abs=0.015)


def test_randomization_is_mcnemars_test_for_rows_that_are_right_or_wrong() -> None:
    a, b = arms_of(10, 9, 2, 10)
    ours = randomization(np.array(a)[:, None], np.array(b)[:, None], score=_mean)
    assert ours == pytest.approx(exact_paired(a, b), abs=0.01)


def test_equal_answers_have_no_difference() -> None:
    statistics = bleu_per_row_statistics(["find . -name x -type f"] * 5, [["find . -name x -type d"]] * 5)
    assert randomization(statistics, statistics, score=bleu_of_statistics) == 1.0
    assert exact_paired([1.0, 0.0], [1.0, 0.0]) == 1.0


def test_another_bleu_score_in_every_row_is_found() -> None:
    accepted = [[f"tar -c -f archive{n}.tar folder{n}"] for n in range(30)]
    right = bleu_per_row_statistics([answers[0] for answers in accepted], accepted)
    wrong = bleu_per_row_statistics([f"tar -x -f archive{n}.tar elsewhere" for n in range(30)], accepted)
    assert randomization(right, wrong, score=bleu_of_statistics) < 0.001


def _flags(rng: np.random.Generator, clusters: Sequence[int], arms: int, rows: int) -> bool:
    """Return whether any of several arms that answer equally well comes out as different from the first one."""
    difficulty = rng.beta(1, 1, size=max(clusters) + 1)[list(clusters)]
    answers = [(rng.random(rows) < difficulty).astype(float).tolist() for _ in range(arms)]
    p_values = holm([exact_paired(answers[0], other, clusters) for other in answers[1:]])
    return min(p_values) <= LEVEL


@pytest.mark.parametrize("clustered", [False, True])
def test_equal_arms_are_told_apart_in_at_most_one_of_twenty_runs(clustered: bool) -> None:
    """An A/A test over 200 seeds, with four comparisons each."""
    rows = 120
    clusters = [row // 2 if clustered else row for row in range(rows)]
    flagged = sum(_flags(np.random.default_rng(seed), clusters, 5, rows) for seed in range(200))
    assert flagged <= 10, f"{flagged} of 200 runs"


def test_rows_that_repeat_would_be_told_apart_too_often_without_clusters() -> None:
    """The A/A test fails if arms answer every query of a cluster alike, and the rows count as if they did not."""

    def p_value(seed: int, clusters: Sequence[int] | None) -> float:
        rng = np.random.default_rng(seed)
        a, b = (np.repeat((rng.random(30) < 0.5).astype(float), 4).tolist() for _ in range(2))
        return exact_paired(a, b, clusters)

    clusters = [row // 4 for row in range(120)]
    assert sum(p_value(seed, clusters) <= LEVEL for seed in range(200)) <= 10
    assert sum(p_value(seed, None) <= LEVEL for seed in range(200)) > 40


def test_the_smallest_difference_is_found_four_times_out_of_five() -> None:
    rows, rng = 400, np.random.default_rng(5)
    a, b = (rng.normal(size=rows) for _ in range(2))
    smallest = smallest_difference(paired_bootstrap(a, b))
    found = 0
    for _ in range(400):
        x, y = rng.normal(smallest, 1, size=rows), rng.normal(size=rows)
        found += stats.ttest_rel(x, y).pvalue <= LEVEL
    assert found / 400 == pytest.approx(0.8, abs=0.06)


def test_fewer_rows_than_the_fewest_decide_nothing() -> None:
    fewest = fewest_rows()
    assert exact_paired([1.0] * fewest, [0.0] * fewest) <= LEVEL
    assert exact_paired([1.0] * (fewest - 1), [0.0] * (fewest - 1)) > LEVEL


@pytest.mark.parametrize("compare", [exact_paired, lambda a, b: randomization([a], [b], score=_mean)])
def test_other_rows_are_refused(compare: Any) -> None:
    with pytest.raises(ValueError, match="rows differ"):
        compare([1.0], [1.0, 0.0])


def test_the_interval_of_a_difference_and_its_test_usually_agree() -> None:
    rng = np.random.default_rng(8)
    agreed = 0
    for _ in range(200):
        a, b = ((rng.random(150) < share).astype(float).tolist() for share in (0.6, 0.5))
        interval = newcombe_paired(a, b)
        agreed += (interval.low > 0 or interval.high < 0) == (exact_paired(a, b) <= LEVEL)
    assert agreed >= 180
