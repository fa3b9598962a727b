"""From the host's memory to a device's."""

from typing import Any

import torch
from numpy.typing import NDArray


def moved(numbers: NDArray[Any] | list[Any], device: torch.device) -> torch.Tensor:
    """A tensor of ``numbers`` on ``device``. The host does not wait for what the device is still at."""
    x = torch.as_tensor(numbers)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
