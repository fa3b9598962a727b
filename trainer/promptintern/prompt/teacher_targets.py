"""The teacher's distributions over the next token, from which a row is learned."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from promptintern_api.training import TeacherLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTargets:
    """The teacher's distribution over the next token at each of the ``A`` answer tokens of a row.

    Each distribution has ``k + 1`` outcomes: the ``k`` most likely tokens, and all other tokens together.
    """

    ids: NDArray[np.int32]
    """The ``k`` most likely tokens ``[A, k]``."""
    log_probs: NDArray[np.float32]
    """The logarithms of their probabilities ``[A, k]``."""
    rest: NDArray[np.float32]
    """The logarithm of the probability of all other tokens together ``[A]``; minus infinity if it is 0."""
    loss: TeacherLoss
    """The divergence from these distributions that is minimized: ``FORWARD_KL`` or ``JENSEN_SHANNON``."""
    weight: float
    """The weight of the divergence at each answer token; the cross-entropy of a written answer has weight 1."""
