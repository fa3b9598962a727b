"""Whether two computations of the same logits agree, though they sum numbers in different orders."""

from typing import Any

import torch

from promptintern.engine.fused.patching import base_of

_TOLERANCE, _TOLERANCE_16_BIT = 1e-3, 0.1
"""The largest difference between logits that a different order of summation may cause, in float32 and in 16-bit types.
The unit of the difference is the standard deviation of the logits."""


def logit_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference between the logits ``found`` and ``expected``, two tensors of the same shape.

    The unit of the difference is the standard deviation of ``expected``.
    """
    return float((found - expected).abs().max() / expected.std())


def is_rounding(difference: float, model: Any) -> bool:
    """Return whether a different order of summation in ``model`` can explain a ``logit_difference``."""
    return difference <= (_TOLERANCE if base_of(model).dtype == torch.float32 else _TOLERANCE_16_BIT)
