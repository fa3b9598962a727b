"""Rates of a training."""

from copy import deepcopy
from dataclasses import asdict, replace

import pytest
from promptintern.engine.checkpoint import Trajectory
from promptintern.engine.throughput import ParameterCounts
from promptintern.pipeline.throughput import speed_facts, speed_of

WEIGHTS = ParameterCounts(base=1000, head=100, lora=10)
STEPS = {"loss": [2.0, 1.0], "tokens": [100, 60], "loss_tokens": [10, 6], "rows": [5, 3]}


def trained(**changes: object) -> Trajectory:
    trajectory = Trajectory(**deepcopy(STEPS), **changes)  # type: ignore[arg-type]
    trajectory.add_seconds({"forward": 1.0, "backward": 3.0})
    return trajectory


def test_rates_and_shares() -> None:
    speed = speed_of(trained(computed=[50, 30]), WEIGHTS, peak=1e6)
    assert (speed.examples, speed.tokens, speed.computed, speed.loss_tokens) == (2.0, 40.0, 20.0, 4.0)
    assert speed.shares == {"forward": 0.25, "backward": 0.75}
    assert speed.mfu == pytest.approx((80 * (4 * 1000 + 6 * 10) + 16 * 4 * 100) / 4 / 1e6)


def test_rates_of_steps_that_were_added_are_those_of_steps_that_were_read() -> None:
    added = trained(computed=[30])
    added.add(loss=0.5, grad_norm=1.0, learning_rate=1e-4, tokens=50, loss_tokens=5, rows=2, computed=40)
    assert speed_of(added, WEIGHTS, peak=1e6) == speed_of(Trajectory(**asdict(added)), WEIGHTS, peak=1e6)


def test_no_utilization_without_a_peak() -> None:
    speed = speed_of(trained(computed=[50, 30]), WEIGHTS, peak=None)
    assert speed.mfu is None
    facts = speed_facts(speed)
    assert facts is not None
    assert (facts.tokens_per_second, facts.mfu, facts.time_shares.backward) == (40.0, None, 0.75)


def test_a_training_that_an_older_version_began() -> None:
    speed = speed_of(trained(computed=[30], seconds=4.0), WEIGHTS, peak=1e6)
    assert (speed.tokens, speed.computed) == (20.0, 7.5)
    assert speed.mfu == pytest.approx((30 * (4 * 1000 + 6 * 10) + 6 * 4 * 100) / 4 / 1e6)


def test_a_training_that_an_older_version_ended() -> None:
    speed = speed_of(Trajectory(**STEPS, seconds=4.0), WEIGHTS, peak=1e6)  # type: ignore[arg-type]
    assert (speed.tokens, speed.computed, speed.mfu, speed.shares) == (40.0, None, None, {})
    assert speed_facts(speed) is None
    assert speed_facts(replace(speed, computed=1.0)) is not None
