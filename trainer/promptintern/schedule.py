"""The stages of spec.schedule: which share of the template and how many shots the prompts of each stage contain."""

import math
from dataclasses import dataclass

from promptintern_api.schedule import Curve, ScheduleSpec
from promptintern_api.training import TrainingSpec

DEFAULT_SHOTS = 5
DEFAULT_FINAL_RATE = 0.0
STEEPNESS = 3.0
"""Steepness of the exponential curves: half-way through, 82 % of the fall is done (or, inverted, still to come)."""
RATE_DIGITS = 4
"""Number of digits to which rates are rounded, so that a table shows the rate that a Precomputed template must name."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training."""

    index: int
    rate: float
    """Share of the template's tokens to keep, from 1 down to 0."""
    shots: int
    """Number of examples in every prompt."""
    epochs: int
    """Number of passes over the training rows."""


def build_stages(schedule: ScheduleSpec, training: TrainingSpec) -> list[Stage]:
    """Return the stages that ``schedule`` describes.

    With S stages, final rate f, K shots and t = s / (S - 1) for stage s, the share u(t) of the prompt that has not yet
    been removed falls from 1 to 0:

    - Linear: ``u = 1 - t``
    - Exponential, which falls fast at first: ``u = (exp(-3 t) - exp(-3)) / (1 - exp(-3))``
    - InverseExponential, which falls slowly at first: ``u = 1 - (exp(-3 (1 - t)) - exp(-3)) / (1 - exp(-3))``

    and ``rate = f + (1 - f) u``, rounded to four digits; ``shots = K u``, rounded half up, which is
    ``K (rate - f) / (1 - f)``. The first stage has rate 1 and K shots, the last one rate f and no shots; a
    single stage is the last one. The names come from the paper (Zou et al., Findings of EMNLP 2024); the formulas are
    this project's interpretation of it.
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
    """Return K, the number of shots of the full prompt in use today, even if no stage has as many (``stages: 1``)."""
    if schedule.explicit is not None:
        return max(stage.shots for stage in schedule.explicit)
    return DEFAULT_SHOTS if schedule.shots is None else schedule.shots


def remaining_share(curve: Curve, stage: int, stages: int) -> float:
    """Return u, the share of the prompt not yet removed in ``stage``: exactly 1 in the first stage, 0 in the last."""
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
