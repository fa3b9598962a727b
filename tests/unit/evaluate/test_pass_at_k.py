"""pass@k without bias: against all subsets of the samples, and against the expectation over random draws."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.evaluate.pass_at_k import pass_at_k, pass_at_k_interval


@given(st.data())
def test_it_is_the_share_of_subsets_with_a_pass(data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 9))
    passed = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    outcomes = [True] * passed + [False] * (samples - passed)
    subsets = [any(subset) for subset in combinations(outcomes, k)]
    assert pass_at_k(samples, passed, k) == pytest.approx(sum(subsets) / len(subsets), abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_its_mean_is_the_probability(k: int) -> None:
    rng, chance = np.random.default_rng(0), 0.3
    estimates = [pass_at_k(10, int(passed), k) for passed in rng.binomial(10, chance, 20_000)]
    assert np.mean(estimates) == pytest.approx(1 - (1 - chance) ** k, abs=0.01)


@pytest.mark.parametrize(("samples", "passed", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_numbers_that_contradict_each_other_are_refused(samples: int, passed: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k}"):
        pass_at_k(samples, passed, k)


def test_the_interval_covers_the_mean_and_has_a_width() -> None:
    clusters = list(range(60))
    mixed = pass_at_k_interval(10, [n % 11 for n in range(60)], 1, clusters)
    assert mixed.low < mixed.value < mixed.high
    assert mixed.value == pytest.approx(np.mean([(n % 11) / 10 for n in range(60)]))
    certain = pass_at_k_interval(10, [10] * 60, 1, clusters)
    assert certain.value == 1
    assert certain.low < 1, "60 rows do not prove that every row passes"
