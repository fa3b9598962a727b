"""Copies from host memory to device memory."""

from typing import Any

import torch
from numpy.typing import NDArray


def to_device(numbers: NDArray[Any] | list[Any], device: torch.device) -> torch.Tensor:
    """Return ``numbers`` as a tensor on ``device``, without waiting for pending work of the device."""
    x = torch.as_tensor(numbers)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
