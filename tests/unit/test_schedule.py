"""Stages: first and last are exact, and values only fall in between."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.schedule import (
    ADAPTIVE_POSITIONS,
    Attempt,
    Stage,
    build_stages,
    full_prompt_shots,
    last_accepted,
    next_position,
    remaining_share,
)
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
    count = ADAPTIVE_POSITIONS if curve is Curve.ADAPTIVE else stages
    assert [stage.index for stage in built] == list(range(count))
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


def run_adaptive(accepted: list[bool], *, positions: int = ADAPTIVE_POSITIONS, max_stages: int = 8) -> list[Attempt]:
    """Return the stages of an adaptive schedule whose attempts after the first are accepted as ``accepted`` says."""
    attempts: list[Attempt] = []
    while (position := next_position(attempts, positions=positions, max_stages=max_stages)) is not None:
        is_accepted = not attempts or accepted[len(attempts) - 1]
        attempts.append(Attempt(position=position, accepted=is_accepted))
    return attempts


@pytest.mark.parametrize(
    ("accepted", "positions"),
    [
        ([True] * 7, [0, 4, 12, 16]),
        ([False, True, True, True, True, True, True], [0, 4, 2, 6, 14, 16]),
        ([True, True, False, True, True, True, True], [0, 4, 12, 16, 14, 16]),
        ([True, True, False, False, True, True, True], [0, 4, 12, 16, 14, 13, 15, 16]),
        ([False] * 7, [0, 4, 2, 1, 3, 2, 4, 16]),
    ],
)
def test_an_adaptive_schedule_steps_back_where_the_score_drops(accepted: list[bool], positions: list[int]) -> None:
    assert [attempt.position for attempt in run_adaptive(accepted)] == positions


def test_an_adaptive_schedule_of_one_stage_has_the_query_alone() -> None:
    assert run_adaptive([], max_stages=1) == [Attempt(position=ADAPTIVE_POSITIONS - 1, accepted=True)]
    stages = build_stages(ScheduleSpec(curve=Curve.ADAPTIVE, shots=4), TRAINING)
    assert len(stages) == ADAPTIVE_POSITIONS
    assert (stages[0].rate, stages[0].shots) == (1, 4)
    assert (stages[-1].rate, stages[-1].shots) == (0, 0)


@given(st.lists(st.booleans(), min_size=64, max_size=64), st.integers(2, 40), st.integers(1, 64))
def test_every_adaptive_schedule_ends_at_the_last_position(
    accepted: list[bool], positions: int, max_stages: int
) -> None:
    attempts = run_adaptive(accepted, positions=positions, max_stages=max_stages)
    assert 1 <= len(attempts) <= max_stages
    last = positions - 1
    assert any(attempt.position == last for attempt in attempts)
    starts = [None, *(last_accepted(attempts[:count]) for count in range(1, len(attempts)))]
    assert len({(start, attempt.position) for start, attempt in zip(starts, attempts, strict=True)}) == len(attempts)
    for start, attempt in zip(starts[1:], attempts[1:], strict=True):
        assert start is not None
        assert attempts[start].position < attempt.position
    if len(attempts) < max_stages - 1:
        assert last_accepted(attempts) == len(attempts) - 1, "it ends early only if the query alone was accepted"
