"""Copies from the host's memory to a device's."""

from typing import Any

import torch
from numpy.typing import NDArray


def to_device(numbers: NDArray[Any] | list[Any], device: torch.device) -> torch.Tensor:
    """Return ``numbers`` as a tensor on ``device``. The host does not wait for the device's pending work."""
    x = torch.as_tensor(numbers)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
