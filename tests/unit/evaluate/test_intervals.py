"""Intervals: published values, invariants, and coverage in simulations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.evaluate.intervals import bootstrap, newcombe_paired, paired_bootstrap, wilson
from promptintern.evaluate.metrics import bleu, bleu_of_statistics, bleu_per_row_statistics

OUTCOMES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60).map(
    lambda pairs: ([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
)


def table(both: int, first: int, second: int, neither: int) -> tuple[list[float], list[float]]:
    """Return results of two arms with these numbers of rows on which both, only one, or neither is right."""
    a = [1.0] * both + [1.0] * first + [0.0] * second + [0.0] * neither
    b = [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither
    return a, b


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_gives_published_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)
    assert interval.value == successes / n
    assert interval.method == "Wilson 95 %"


@given(st.integers(1, 5000), st.data())
@settings(max_examples=50)
def test_wilson_holds_its_value_and_stays_a_share(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    interval, mirrored = wilson(successes, n), wilson(n - successes, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.high > interval.low
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes of"):
        wilson(successes, n)


@pytest.mark.parametrize("share", [0.03, 0.5, 0.9, 0.97])
def test_wilson_covers_the_true_share(share: float) -> None:
    n, rng = 100, np.random.default_rng(0)
    intervals = [wilson(int(k), n) for k in rng.binomial(n, share, size=2000)]
    assert 0.92 <= np.mean([i.low <= share <= i.high for i in intervals]) <= 0.99


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((18, 12, 2, 18), 0.0562, 0.3290), ((53, 0, 1, 0), -0.0977, 0.0496)],
)
def test_newcombe_repeats_its_figures(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    interval = newcombe_paired(*table(*counts))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


@given(OUTCOMES)
@settings(max_examples=40)
def test_newcombe_holds_its_value_and_mirrors(outcomes: tuple[list[float], list[float]]) -> None:
    a, b = outcomes
    interval, mirrored = newcombe_paired(a, b), newcombe_paired(b, a)
    assert interval.value == pytest.approx(np.mean(a) - np.mean(b))
    assert -1 <= interval.low <= interval.value + 1e-12
    assert interval.value - 1e-12 <= interval.high <= 1
    assert (-mirrored.high, -mirrored.low) == pytest.approx((interval.low, interval.high))


def test_newcombe_has_a_width_where_no_two_rows_differ() -> None:
    alike = [1.0] * 20
    interval = newcombe_paired(alike, alike)
    assert interval.low < -0.1 < 0.1 < interval.high
    resampled = paired_bootstrap(alike, alike)
    assert resampled.low == resampled.high == 0  # which is why exact match does not use it


def test_newcombe_refuses_scores_between() -> None:
    with pytest.raises(ValueError, match=r"right \(1.0\) or wrong \(0.0\)"):
        newcombe_paired([0.5], [1.0])


@pytest.mark.parametrize("compare", [newcombe_paired, paired_bootstrap])
@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 0.0])])
def test_rows_that_are_not_the_same_are_refused(compare: object, a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="row"):
        compare(a, b)  # type: ignore[operator]


@pytest.mark.parametrize("compare", [newcombe_paired, paired_bootstrap])
def test_paired_intervals_cover_the_true_difference(compare: object) -> None:
    n, rng = 150, np.random.default_rng(1)
    cells = [0.80, 0.10, 0.05, 0.05]  # both right, only the first, only the second, neither
    covered = 0
    for counts in rng.multinomial(n, cells, size=200):
        interval = compare(*table(*counts.tolist()))  # type: ignore[operator]
        covered += interval.low <= 0.05 <= interval.high
    assert 0.91 <= covered / 200 <= 0.99


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=30))
@settings(max_examples=25)
def test_the_bootstrap_repeats_and_mirrors(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    interval = paired_bootstrap(a, b, resamples=200)
    assert interval == paired_bootstrap(a, b, resamples=200)
    assert interval.value == pytest.approx(np.mean(a) - np.mean(b))
    differences = np.subtract(a, b)
    assert differences.min() - 1e-9 <= interval.low <= interval.high <= differences.max() + 1e-9
    assert interval.method == "paired bootstrap 95 %, 200 resamples, seed 0"


def test_another_seed_draws_other_rows() -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 50))
    assert paired_bootstrap(a, b, seed=1) != paired_bootstrap(a, b, seed=2)


def test_the_bootstrap_is_as_wide_as_theory_says() -> None:
    a = np.random.default_rng(3).normal(size=400)
    interval = paired_bootstrap(a, np.zeros(400))
    expected = 2 * 1.96 * a.std() / np.sqrt(400)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)


def test_pairing_narrows_the_interval_of_arms_that_err_alike() -> None:
    rng = np.random.default_rng(4)
    hardness = rng.normal(size=200)
    a, b = hardness + rng.normal(scale=0.1, size=200), hardness + rng.normal(scale=0.1, size=200)
    paired, unpaired = paired_bootstrap(a, b), paired_bootstrap(a, rng.permutation(b))
    assert paired.high - paired.low < 0.3 * (unpaired.high - unpaired.low)


def test_bleu_intervals_come_from_row_statistics() -> None:
    words, rng = [f"word{i}" for i in range(10)], np.random.default_rng(5)
    accepted = [[" ".join(rng.choice(words, 8))] for _ in range(60)]
    good = [a[0] if i % 10 else "select" for i, a in enumerate(accepted)]
    poor = [" ".join(a[0].split()[:5]) for a in accepted]
    a, b = bleu_per_row_statistics(good, accepted), bleu_per_row_statistics(poor, accepted)
    alone = bootstrap(a, score=bleu_of_statistics)
    assert alone.value == pytest.approx(bleu(good, accepted).score)
    assert alone.low < alone.value < alone.high
    difference = paired_bootstrap(a, b, score=bleu_of_statistics)
    assert difference.value == pytest.approx(bleu(good, accepted).score - bleu(poor, accepted).score)
    assert 0 < difference.low < difference.value < difference.high


def test_resampling_in_parts_keeps_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(50.0)
    whole = bootstrap(values)
    monkeypatch.setattr("promptintern.evaluate.intervals._MAX_DRAWS_IN_MEMORY", 777)
    assert bootstrap(values) == whole
