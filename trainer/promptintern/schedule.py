"""The stages that spec.schedule describes: for each, the share of the template to keep and the number of shots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from promptintern_api.schedule import Curve, ScheduleSpec
from promptintern_api.training import TrainingSpec

DEFAULT_SHOTS = 5
DEFAULT_FINAL_RATE = 0.0
STEEPNESS = 3.0
"""The steepness of the exponential curves: halfway through the stages, the share has fallen by 82 % (or, inverted, by
18 %)."""
RATE_DIGITS = 4
"""The number of decimal places to which rates are rounded, so that a table shows the rate that a Precomputed template
must name."""


ADAPTIVE_POSITIONS = 17
"""The number of shares of the prompt among which an adaptive schedule chooses, from the whole prompt to none of it."""
_FIRST_STEP = 4
"""The number of positions by which the second stage of an adaptive schedule descends. Without a setback, this leads to
positions 0, 4, 12 and 16, and so to four stages, as many as the default of the other curves."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training."""

    index: int
    rate: float
    """The share of the template's tokens to keep, from 1 down to 0."""
    shots: int
    """The number of examples in every prompt."""
    epochs: int
    """The number of passes over the training rows."""


def build_stages(schedule: ScheduleSpec, training: TrainingSpec) -> list[Stage]:
    """Return the stages that ``schedule`` describes.

    With S stages, final rate f, K shots and t = s / (S - 1) for stage s, the share u(t) of the prompt that has not yet
    been removed falls from 1 to 0:

    - Linear: ``u = 1 - t``
    - Exponential, which falls fast at first: ``u = (exp(-3 t) - exp(-3)) / (1 - exp(-3))``
    - InverseExponential, which falls slowly at first: ``u = 1 - (exp(-3 (1 - t)) - exp(-3)) / (1 - exp(-3))``

    Then ``rate = f + (1 - f) u``, rounded to four digits, and ``shots = K u``, rounded half up, which equals
    ``K (rate - f) / (1 - f)``. The first stage has rate 1 and K shots, and the last stage has rate f and no shots; a
    single stage counts as the last stage. The names come from the paper (Zou et al., Findings of EMNLP 2024); the
    formulas are this project's interpretation of the paper.

    An adaptive schedule chooses among the ``ADAPTIVE_POSITIONS`` stages of a linear one, which are returned here
    (see ``next_position``).
    """
    if schedule.explicit is not None:
        return [
            Stage(
                index=index,
                rate=stage.template_rate,
                shots=stage.shots,
                epochs=stage.epochs or training.epochs_per_stage,
            )
            for index, stage in enumerate(schedule.explicit)
        ]
    count = ADAPTIVE_POSITIONS if schedule.is_adaptive else schedule.num_stages
    full_shots = full_prompt_shots(schedule)
    final = DEFAULT_FINAL_RATE if schedule.final_rate is None else schedule.final_rate
    shares = [remaining_share(schedule.curve or Curve.LINEAR, s, count) for s in range(count)]
    return [
        Stage(
            index=s,
            rate=round(final + (1 - final) * u, RATE_DIGITS) if u else final,
            shots=_round_half_up(full_shots * u),
            epochs=training.epochs_per_stage,
        )
        for s, u in enumerate(shares)
    ]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A stage of an adaptive schedule that was trained."""

    position: int
    accepted: bool
    """Whether its score stayed within the gate of the stage from which it started."""


def next_position(attempts: Sequence[Attempt], *, positions: int, max_stages: int) -> int | None:
    """Return the position of the next stage of an adaptive schedule, or None if the schedule has ended.

    The first stage has position 0, the whole prompt. After a stage that is accepted, the step doubles; after a stage
    that is not, the step is halved, and the next stage starts from the last accepted one. A stage that is only one
    position further counts as accepted in any case, because no smaller step exists. The last of ``max_stages`` stages
    has the last position, so that every schedule ends there.

    Args:
        attempts: The stages that were trained, in order.
        positions: The number of positions.
        max_stages: The largest number of stages.
    """
    last = positions - 1
    if not attempts:
        return 0 if max_stages > 1 else last
    current, step, tried_last_from = attempts[0].position, _FIRST_STEP, -1
    for attempt in attempts[1:]:
        taken = attempt.position - current
        if attempt.position == last:
            tried_last_from = current
        if attempt.accepted or taken == 1:
            current, step = attempt.position, 2 * taken
        else:
            step = taken // 2
    left = max_stages - len(attempts)
    if current == last or left == 0 or (left == 1 and tried_last_from == current):
        return None
    return last if left == 1 else min(last, current + step)


def last_accepted(attempts: Sequence[Attempt]) -> int:
    """Return the index of the attempt from which the next stage of an adaptive schedule starts."""
    current = 0
    for index, attempt in enumerate(attempts):
        if attempt.accepted or attempt.position - attempts[current].position == 1:
            current = index
    return current


def full_prompt_shots(schedule: ScheduleSpec) -> int:
    """Return K, the number of shots in today's full prompt. With ``stages: 1``, no stage has that many shots."""
    if schedule.explicit is not None:
        return max(stage.shots for stage in schedule.explicit)
    return DEFAULT_SHOTS if schedule.shots is None else schedule.shots


def remaining_share(curve: Curve, stage: int, stages: int) -> float:
    """Return u, the share of the prompt that ``stage`` still has: exactly 1 in the first stage and 0 in the last."""
    if stage == stages - 1:
        return 0.0
    if stage == 0:
        return 1.0
    share = (stages - 1 - stage) / (stages - 1)
    match curve:
        case Curve.LINEAR | Curve.ADAPTIVE:
            return share
        case Curve.EXPONENTIAL:
            return _bend(1 - share)
        case Curve.INVERSE_EXPONENTIAL:
            return 1 - _bend(share)


def _bend(t: float) -> float:
    floor = math.exp(-STEEPNESS)
    return (math.exp(-STEEPNESS * t) - floor) / (1 - floor)


def _round_half_up(value: float) -> int:
    # The small term compensates for rounding errors such as 2.4999999999999996 for five halves.
    return math.floor(value + 0.5 + 1e-9)
