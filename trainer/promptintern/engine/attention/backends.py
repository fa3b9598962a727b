"""The attention backend of each kind of device."""

import torch

from promptintern.engine.attention.cpu import CpuBackend
from promptintern.engine.attention.tree_attention import AttentionBackend
from promptintern.engine.attention.varlen import VarlenBackend


def min_node_savings_on(device: torch.device) -> int:
    """The tokens that a shared node has to save on ``device`` to be worth its attention calls."""
    backend = backend_for(device)
    return backend.min_node_savings if backend else 1


def min_prefix_savings_on(device: torch.device) -> int | None:
    """The tokens that a shared prefix has to save each worker on ``device``, or None if no shared prefix pays there."""
    backend = backend_for(device)
    return backend.min_prefix_savings if backend else None


def backend_for(device: torch.device) -> AttentionBackend | None:
    """The tree-attention backend for ``device``, or None if it has none and must fall back to masked attention."""
    backends: dict[str, AttentionBackend] = {"cpu": CpuBackend(), "cuda": VarlenBackend()}
    return backends.get(device.type)
