"""Stages: first and last are exact, and values only fall in between."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.schedule import Stage, build_stages, full_prompt_shots, remaining_share
from promptintern_api.schedule import Curve, ScheduleSpec
from promptintern_api.training import TrainingSpec

TRAINING = TrainingSpec(epochs_per_stage=3)


def as_table(stages: list[Stage]) -> list[tuple[float, int]]:
    return [(stage.rate, stage.shots) for stage in stages]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (None, [(1, 5), (0.6667, 3), (0.3333, 2), (0, 0)]),
        (Curve.LINEAR, [(1, 5), (0.6667, 3), (0.3333, 2), (0, 0)]),
        (Curve.EXPONENTIAL, [(1, 5), (0.3348, 2), (0.0900, 0), (0, 0)]),
        (Curve.INVERSE_EXPONENTIAL, [(1, 5), (0.9100, 5), (0.6652, 3), (0, 0)]),
    ],
)
def test_four_stages_of_each_curve(curve: Curve | None, expected: list[tuple[float, int]]) -> None:
    assert as_table(build_stages(ScheduleSpec(curve=curve), TRAINING)) == expected


def test_half_shots_are_rounded_up() -> None:
    stages = build_stages(ScheduleSpec(stages=3, shots=5), TRAINING)
    assert [stage.shots for stage in stages] == [5, 3, 0]


def test_one_stage_is_the_last_one() -> None:
    stages = build_stages(ScheduleSpec(stages=1, shots=5, final_rate=0.25), TRAINING)
    assert stages == [Stage(index=0, rate=0.25, shots=0, epochs=3)]


def test_final_rate_is_a_floor_that_shots_do_not_have() -> None:
    stages = build_stages(ScheduleSpec(stages=3, shots=4, final_rate=0.2), TRAINING)
    assert as_table(stages) == [(1, 4), (0.6, 2), (0.2, 0)]


def test_explicit_stages_are_taken_as_they_are() -> None:
    spec = ScheduleSpec.model_validate(
        {"explicit": [{"templateRate": 0.9, "shots": 2, "epochs": 7}, {"templateRate": 0.1, "shots": 0}]}
    )
    assert build_stages(spec, TRAINING) == [
        Stage(index=0, rate=0.9, shots=2, epochs=7),
        Stage(index=1, rate=0.1, shots=0, epochs=3),
    ]


@given(
    stages=st.integers(2, 64),
    curve=st.sampled_from(Curve),
    shots=st.integers(0, 256),
    final_rate=st.floats(0, 1, exclude_max=True),
)
def test_every_curve_falls_from_everything_to_nothing(stages: int, curve: Curve, shots: int, final_rate: float) -> None:
    built = build_stages(ScheduleSpec(stages=stages, curve=curve, shots=shots, final_rate=final_rate), TRAINING)
    assert [stage.index for stage in built] == list(range(stages))
    assert as_table(built)[0] == (1, shots)
    assert as_table(built)[-1] == (final_rate, 0)
    for earlier, later in pairwise(built):
        assert earlier.rate >= later.rate - 5e-5  # rates between the ends are rounded to four digits
        assert earlier.shots >= later.shots
        assert 0 <= later.rate <= 1


@given(stages=st.integers(3, 64), data=st.data())
def test_exponential_falls_before_linear_and_inverse_exponential_after(stages: int, data: st.DataObject) -> None:
    stage = data.draw(st.integers(1, stages - 2))
    linear = remaining_share(Curve.LINEAR, stage, stages)
    assert (
        remaining_share(Curve.EXPONENTIAL, stage, stages)
        < linear
        < remaining_share(Curve.INVERSE_EXPONENTIAL, stage, stages)
    )
    mirrored = remaining_share(Curve.EXPONENTIAL, stages - 1 - stage, stages)
    assert remaining_share(Curve.INVERSE_EXPONENTIAL, stage, stages) == pytest.approx(1 - mirrored)


def test_the_full_prompt_has_all_examples_also_where_no_stage_has() -> None:
    assert full_prompt_shots(ScheduleSpec(stages=1, shots=3)) == 3
    assert full_prompt_shots(ScheduleSpec()) == 5
    explicit = [{"templateRate": 1, "shots": 4}, {"templateRate": 0, "shots": 0}]
    assert full_prompt_shots(ScheduleSpec.model_validate({"explicit": explicit})) == 4
