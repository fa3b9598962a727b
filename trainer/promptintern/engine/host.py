"""From the host's memory to a device's."""

import torch


def moved(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``x``, made on the host, on ``device``. The host does not wait for what the device is still at."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
