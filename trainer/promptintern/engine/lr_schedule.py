"""The learning rate of a step."""

import math

from promptintern_api.training import LrSchedule


def learning_rate(step: int, total: int, *, peak: float, warmup_ratio: float, schedule: LrSchedule) -> float:
    """The rate of step ``step`` of ``total`` (from 0).

    It rises linearly over ``w = ceil(warmup_ratio * total)`` steps, ``peak * (step + 1) / w``; afterwards, with
    ``t = (step - w) / (total - w)`` in [0, 1): Constant ``peak``, Linear ``peak * (1 - t)``, Cosine
    ``peak * (1 + cos(pi * t)) / 2``.
    """
    warmup = math.ceil(warmup_ratio * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    t = (step - warmup) / max(1, total - warmup)
    match schedule:
        case LrSchedule.CONSTANT:
            return peak
        case LrSchedule.LINEAR:
            return peak * (1 - t)
        case LrSchedule.COSINE:
            return peak * (1 + math.cos(math.pi * t)) / 2
