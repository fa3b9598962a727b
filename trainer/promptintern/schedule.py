"""From spec.schedule to stages: what share of the template and how many examples each stage's prompts carry."""

import math
from dataclasses import dataclass

from promptintern_api.schedule import Curve, ScheduleSpec
from promptintern_api.training import TrainingSpec

DEFAULT_SHOTS = 5
DEFAULT_FINAL_RATE = 0.0
STEEPNESS = 3.0
"""How bent the exponential curves are: after half of the way 82 % of the fall is done (or still to come)."""
RATE_DIGITS = 4
"""Rates are rounded to so many digits, so that what a table shows is what a Precomputed template names."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training."""

    index: int
    rate: float
    """Share of the template's tokens to keep, 1 to 0."""
    shots: int
    """Examples in every prompt."""
    epochs: int
    """Passes over the rows."""


def build_stages(schedule: ScheduleSpec, training: TrainingSpec) -> list[Stage]:
    """The stages that ``schedule`` asks for.

    With S stages, final rate f, K shots and t = s / (S - 1) for stage s, the share u(t) of the prompt that is still to
    go falls from 1 to 0:

    - Linear: ``u = 1 - t``
    - Exponential, fast first: ``u = (exp(-3 t) - exp(-3)) / (1 - exp(-3))``
    - InverseExponential, slowly first: ``u = 1 - (exp(-3 (1 - t)) - exp(-3)) / (1 - exp(-3))``

    and ``rate = f + (1 - f) u``, rounded to four digits; ``shots = K u``, rounded half up, which is
    ``K (rate - f) / (1 - f)``. The first stage has rate 1 and K shots, the last one f and none; a single stage is the
    last one. The names are the paper's (Zou et al., Findings of EMNLP 2024), the formulas this project's reading.
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
    """K: the examples of the prompt that is paid for today, also where no stage has as many (``stages: 1``)."""
    if schedule.explicit is not None:
        return max(stage.shots for stage in schedule.explicit)
    return DEFAULT_SHOTS if schedule.shots is None else schedule.shots


def remaining_share(curve: Curve, stage: int, stages: int) -> float:
    """u: the share of the way that is still to go in ``stage`` of ``stages``; exactly 1 in the first, 0 in the last."""
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
    # The small term undoes rounding errors such as 2.4999999999999996 for five halves.
    return math.floor(value + 0.5 + 1e-9)
