"""Which devices attend over prefix trees, and how."""

import torch

from promptintern.engine.cascade import Planner
from promptintern.engine.pieces import Pieces
from promptintern.engine.ragged import Ragged


def planner_of(device: torch.device) -> Planner | None:
    """The device's way; None where there is none, and packs are computed with a mask."""
    planners: dict[str, Planner] = {"cpu": Pieces(), "cuda": Ragged()}
    return planners.get(device.type)
