"""Reduces the losses of a stage or of the Direct arm to at most 100 points, so that the report stays small."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from promptintern.report.facts import CurvePoint, LossCurve

MAX_POINTS = 100


def loss_curve(track: str, losses: Sequence[float]) -> LossCurve:
    """Return the loss curve of a stage or of the Direct arm. Each point is a mean over consecutive optimizer steps.

    Args:
        track: The index of the stage, or ``direct`` for the Direct arm.
        losses: The mean loss per answer token at every optimizer step, in nats.
    """
    edges = np.linspace(0, len(losses), min(len(losses), MAX_POINTS) + 1).round().astype(int).tolist()
    points = [CurvePoint(step=end, loss=float(np.mean(losses[start:end]))) for start, end in pairwise(edges)]
    return LossCurve(track=track, points=points)
