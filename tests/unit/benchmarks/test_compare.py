"""Decisions of the training benchmark: which sizes stay in, which is a method's best, and whether all trained alike."""

import pytest
from promptintern.pipeline.session import CPU_PACK_TOKENS

from benchmarks.training.compare import Setting, best_of, differences, in_the_running, other_trainings
from benchmarks.training.profile import PACK


def test_packs_are_as_large_as_in_a_run() -> None:
    assert PACK["cpu"] == CPU_PACK_TOKENS


def setting(method: str, size: int, *seconds: float, losses: tuple[float, ...] = (2.0, 1.0)) -> Setting:
    return Setting(
        method=method,
        size=size,
        stage=0,
        rounds=len(seconds),
        seconds=list(seconds),
        losses=list(losses),
        norms=[1.0, 0.5],
    )


def test_a_size_that_may_be_the_best_stays_in_unless_its_method_is_far_behind() -> None:
    near, best, slow = setting("hf", 2, 1.2), setting("hf", 1, 1.0), setting("hf", 4, 1.3)
    padded, packed = setting("trl", 1, 1.19), setting("trl-packed", 1024, 1.21)
    ours = [setting("ours", 4096, 9.0), setting("ours", 8192, 12.0)]
    assert in_the_running([near, best, slow, padded, packed, *ours]) == [near, best, padded, ours[0]]


def test_the_best_of_a_method_is_the_fastest_of_its_complete_measurements() -> None:
    lucky, best, slower = setting("hf", 4, 0.5), setting("hf", 1, 1.0, 1.1, 1.2), setting("hf", 2, 1.2, 1.1, 1.3)
    ours = setting("ours", 4096, 0.3, 0.3, 0.3)
    assert best_of([lucky, slower, best, ours]) == [best, ours]


def test_more_steps_in_as_many_rounds_do_not_decide() -> None:
    """A packed step contains other rows, so numbers of steps differ between sizes."""
    slow, fast = setting("trl-packed", 512, 2.0, 2.1, 2.2), setting("trl-packed", 1024, 1.0, 1.1)
    slow.rounds = fast.rounds = 2
    assert best_of([slow, fast]) == [fast]


def test_a_training_that_differs_from_the_padded_methods_is_reported() -> None:
    theirs, packed = setting("hf", 1, 1.0), setting("trl-packed", 1024, 1.0, losses=(5.0, 5.0))
    same, other = (setting("ours", 4096, 1.0, losses=(2.0, last)) for last in (1.0 + 1e-7, 1.001))
    assert differences(same, [theirs, packed]) == pytest.approx((1e-7, 0), rel=1e-3)
    assert differences(same, [packed]) is None
    assert other_trainings([same, theirs, packed], "float32") == []
    assert other_trainings([other, theirs, packed], "float32") == [0]
