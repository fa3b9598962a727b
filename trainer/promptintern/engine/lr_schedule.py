"""The learning-rate schedule."""

import math

from promptintern_api.training import LrSchedule


def learning_rate(step: int, total: int, *, peak: float, warmup_ratio: float, schedule: LrSchedule) -> float:
    """Return the learning rate of step ``step`` (counted from 0) of ``total`` steps.

    During a warmup of ``w = ceil(warmup_ratio * total)`` steps, the rate rises linearly: it is
    ``peak * (step + 1) / w``. After the warmup, with ``t = (step - w) / (total - w)`` in [0, 1), the rate is ``peak``
    (Constant), ``peak * (1 - t)`` (Linear), or ``peak * (1 + cos(pi * t)) / 2`` (Cosine; Loshchilov & Hutter 2017,
    arXiv 1608.03983, without restarts).
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
