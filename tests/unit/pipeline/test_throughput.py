"""The throughput of a training."""

from copy import deepcopy
from dataclasses import asdict
from typing import get_args

import pytest
from promptintern.engine import throughput as engine
from promptintern.engine.checkpoint import Trajectory
from promptintern.engine.throughput import ParameterCounts
from promptintern.pipeline.training import throughput_of
from promptintern_api.training_status import TimeShares

WEIGHTS = ParameterCounts(base=1000, head=100, lora=10)
STEPS = {"loss": [2.0, 1.0], "tokens": [100, 60], "loss_tokens": [10, 6], "rows": [5, 3]}


def trained(**changes: object) -> Trajectory:
    trajectory = Trajectory(**deepcopy(STEPS), **changes)  # type: ignore[arg-type]
    trajectory.add_seconds({"forward": 1.0, "backward": 3.0})
    return trajectory


def test_rates_and_shares() -> None:
    rates = throughput_of(trained(computed=[50, 30]), WEIGHTS, peak=1e6)
    assert (rates.examples_per_second, rates.tokens_per_second) == (2.0, 40.0)
    assert (rates.computed_tokens_per_second, rates.loss_tokens_per_second) == (20.0, 4.0)
    assert rates.time_shares == TimeShares(forward=0.25, backward=0.75)
    assert rates.mfu == pytest.approx((80 * (4 * 1000 + 6 * 10) + 16 * 4 * 100) / 4 / 1e6)


def test_rates_of_steps_that_were_added_are_those_of_steps_that_were_read() -> None:
    added = trained(computed=[30])
    added.add(loss=0.5, grad_norm=1.0, learning_rate=1e-4, tokens=50, loss_tokens=5, rows=2, computed=40)
    assert throughput_of(added, WEIGHTS, peak=1e6) == throughput_of(Trajectory(**asdict(added)), WEIGHTS, peak=1e6)


def test_no_utilization_without_a_peak() -> None:
    rates = throughput_of(trained(computed=[50, 30]), WEIGHTS, peak=None)
    assert (rates.tokens_per_second, rates.mfu) == (40.0, None)


def test_a_device_that_has_reported_no_time_yet() -> None:
    rates = throughput_of(Trajectory(**STEPS, seconds=4.0), WEIGHTS, peak=1e6)  # type: ignore[arg-type]
    assert (rates.tokens_per_second, rates.computed_tokens_per_second, rates.mfu) == (40.0, None, None)
    assert rates.time_shares is None


def test_the_status_has_a_share_for_each_activity_of_a_step() -> None:
    assert tuple(TimeShares.model_fields) == get_args(engine.Activity)
