"""The choice of the tree-attention backend for a device."""

import torch

from promptintern.engine.attention.cpu import CpuBackend
from promptintern.engine.attention.tree_attention import AttentionBackend
from promptintern.engine.attention.varlen import VarlenBackend


def min_node_savings_on(device: torch.device) -> int:
    """Return the number of tokens that sharing a node must save on ``device`` to be worth its kernel calls."""
    backend = backend_for(device)
    return backend.min_node_savings if backend else 1


def min_prefix_savings_on(device: torch.device) -> int | None:
    """Return the number of tokens that a shared prefix must save each worker on ``device`` to be worth an extra pass.

    Return None if a shared prefix is never worth an extra pass through the model on ``device``.
    """
    backend = backend_for(device)
    return backend.min_prefix_savings if backend else None


def backend_for(device: torch.device) -> AttentionBackend | None:
    """Return the tree-attention backend for ``device``.

    Return None if ``device`` has no backend and must fall back to masked attention.
    """
    backends: dict[str, AttentionBackend] = {"cpu": CpuBackend(), "cuda": VarlenBackend()}
    return backends.get(device.type)
