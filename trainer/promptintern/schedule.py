"""The stages that spec.schedule describes: for each, the share of the template to keep and the number of shots."""

import math
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
    count = schedule.num_stages
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
        case Curve.LINEAR:
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
