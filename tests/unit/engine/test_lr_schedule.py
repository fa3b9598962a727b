"""The learning-rate schedule."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.engine.lr_schedule import learning_rate
from promptintern_api.training import LrSchedule


@given(st.integers(1, 500), st.floats(0, 0.9), st.sampled_from(LrSchedule))
def test_rates_are_positive_and_at_most_the_peak(total: int, warmup: float, schedule: LrSchedule) -> None:
    rates = [learning_rate(s, total, peak=0.1, warmup_ratio=warmup, schedule=schedule) for s in range(total)]
    assert all(0 < rate <= 0.1 + 1e-12 for rate in rates)


@given(st.integers(2, 500), st.sampled_from([LrSchedule.LINEAR, LrSchedule.COSINE]))
def test_without_warmup_decaying_rates_fall(total: int, schedule: LrSchedule) -> None:
    rates = [learning_rate(s, total, peak=1.0, warmup_ratio=0, schedule=schedule) for s in range(total)]
    assert rates[0] == pytest.approx(1.0)
    assert all(a > b for a, b in pairwise(rates))


def test_known_points() -> None:
    def at(step: int, schedule: LrSchedule) -> float:
        return learning_rate(step, 12, peak=1.0, warmup_ratio=1 / 6, schedule=schedule)

    assert [at(s, LrSchedule.LINEAR) for s in (0, 1, 2, 7)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert at(7, LrSchedule.COSINE) == pytest.approx(0.5)
    assert at(11, LrSchedule.CONSTANT) == 1.0
