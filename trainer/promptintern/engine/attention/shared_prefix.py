"""The shared prefix: the tokens with which all rows of a step begin, computed once for all packs of a worker.

The model computes the shared prefix in a separate pass. Each pack attends to the keys and values of the prefix as if
the prefix were the root of the pack's prefix tree (Hydragen, Juravsky et al. 2024, arXiv 2402.05099, does so for
inference). The prefix influences the packs only through these keys and values. So the gradients of these keys and
values are summed over the backward passes of all packs, and are propagated back through the prefix after the last pack.
This is the chain rule, with the sum over packs taken first.

Gradient checkpointing cannot be combined with a shared prefix, because the layers of the prefix would be recomputed
with the state of the last pack.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class LayerKeys:
    """The detached keys and values of tokens in one layer.

    Attributes:
        keys: The keys ``[T, H, D]``.
        values: The values ``[T, H, D]``.
    """

    keys: Tensor
    values: Tensor


class Prefix(Protocol):
    """The keys and values of tokens with which all rows begin.

    Attributes:
        tokens: The number of these tokens.
    """

    tokens: int

    def of_layer(self, attention: nn.Module) -> LayerKeys:
        """Return the keys and values in the layer whose attention module is ``attention``."""
        ...


class Recorder(Protocol):
    """Keeps the keys and values of a pack's tokens."""

    def record(self, attention: nn.Module, attached: tuple[Tensor, Tensor]) -> None:
        """Keep the keys and values ``attached`` ``[1, H, T, D]`` that the module ``attention`` computed."""
        ...


@dataclass(frozen=True, kw_only=True)
class LayerPrefix(LayerKeys):
    """The keys and values of the shared prefix in one layer, whose gradients are summed.

    Attributes:
        attached: The keys and values ``[1, H, T, D]`` as the layer computed them, still attached to the autograd graph.
        key_grads: The gradients ``[T, H, D]`` of ``keys``, summed over packs, in float32 for any dtype of the model.
        value_grads: The gradients ``[T, H, D]`` of ``values``, summed over packs, in float32 for any dtype of the
            model.
    """

    attached: tuple[Tensor, Tensor]
    key_grads: Tensor
    value_grads: Tensor


class SharedPrefix:
    """The keys and values of the shared prefix in every layer.

    Attributes:
        tokens: The number of tokens in the prefix.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._layers: dict[nn.Module, LayerPrefix] = {}

    def record(self, attention: nn.Module, attached: tuple[Tensor, Tensor]) -> None:
        """Keep the keys and values ``attached`` ``[1, H, T, D]`` that the module ``attention`` computed."""
        keys, values = (x.detach()[0].transpose(0, 1) for x in attached)
        key_grads, value_grads = (torch.zeros_like(x, dtype=torch.float32) for x in (keys, values))
        self._layers[attention] = LayerPrefix(
            attached=attached, keys=keys, values=values, key_grads=key_grads, value_grads=value_grads
        )

    def of_layer(self, attention: nn.Module) -> LayerPrefix:
        """Return the keys and values of the prefix in the layer whose attention module is ``attention``."""
        return self._layers[attention]

    def fork(self) -> "SharedPrefix":
        """Return a copy that shares the keys and values but has its own gradient sums, which start at zero."""
        fork = SharedPrefix(self.tokens)
        fork._layers = {
            attention: replace(
                layer, key_grads=torch.zeros_like(layer.key_grads), value_grads=torch.zeros_like(layer.value_grads)
            )
            for attention, layer in self._layers.items()
        }
        return fork

    def add_gradients_of(self, fork: "SharedPrefix") -> None:
        """Add the gradient sums of ``fork`` to the gradient sums of this prefix."""
        for attention, layer in self._layers.items():
            layer.key_grads.add_(fork.of_layer(attention).key_grads)
            layer.value_grads.add_(fork.of_layer(attention).value_grads)

    def backward(self) -> None:
        """Propagate the gradients of the keys and values, summed over all packs, back through the prefix."""
        pairs = [
            (x, grad.transpose(0, 1)[None].to(x.dtype))
            for layer in self._layers.values()
            for x, grad in zip(layer.attached, (layer.key_grads, layer.value_grads), strict=True)
            if x.requires_grad
        ]
        torch.autograd.backward([x for x, _ in pairs], [grad for _, grad in pairs])
