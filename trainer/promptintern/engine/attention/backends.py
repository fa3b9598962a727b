"""Which devices attend over prefix trees, and how."""

import torch

from promptintern.engine.attention.cpu import Pieces
from promptintern.engine.attention.tree_attention import Planner
from promptintern.engine.attention.varlen import Ragged


def least_saved_on(device: torch.device) -> int:
    """Tokens that a shared node has to save on this device."""
    planner = planner_of(device)
    return planner.least_saved if planner else 1


def trunk_saves_on(device: torch.device) -> int | None:
    """Tokens that a trunk has to save a worker on this device; None if none pays."""
    planner = planner_of(device)
    return planner.trunk_saves if planner else None


def planner_of(device: torch.device) -> Planner | None:
    """The device's way; None where there is none, and packs are computed with a mask."""
    planners: dict[str, Planner] = {"cpu": Pieces(), "cuda": Ragged()}
    return planners.get(device.type)
