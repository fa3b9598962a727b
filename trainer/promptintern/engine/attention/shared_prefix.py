"""What all rows of a step begin with, computed once for all packs of a worker.

The trunk goes through the model by itself, and packs attend to its keys and values as to a node above all of their own.
Nothing else leads from it to them. So what every pack's backward pass gives these keys and values is added up, and sent
back through the trunk when the last pack is done: the chain rule, with the sum over packs taken first.

Gradient checkpointing would have the trunk's layers computed again, while the last pack's state is at hand.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Above:
    """The trunk in one layer.

    Attributes:
        given: Keys and values ``[1, H, T, D]`` as the layer made them, with what leads to them.
        keys: ``[T, H, D]``, without.
        values: As ``keys``.
        key_grads: Of ``keys``, over all packs so far; float32 whatever the model computes in.
        value_grads: Of ``values``.
    """

    given: tuple[Tensor, Tensor]
    keys: Tensor
    values: Tensor
    key_grads: Tensor
    value_grads: Tensor


class Trunk:
    """Keys and values of every layer.

    Attributes:
        tokens: That it has.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._above: dict[nn.Module, Above] = {}

    def keep(self, attention: nn.Module, given: tuple[Tensor, Tensor]) -> None:
        """Keys and values ``[1, H, T, D]`` as ``attention`` was given them."""
        keys, values = (x.detach()[0].transpose(0, 1) for x in given)
        key_grads, value_grads = (torch.zeros_like(x, dtype=torch.float32) for x in (keys, values))
        self._above[attention] = Above(
            given=given, keys=keys, values=values, key_grads=key_grads, value_grads=value_grads
        )

    def of(self, attention: nn.Module) -> Above:
        """In this layer."""
        return self._above[attention]

    def branch(self) -> "Trunk":
        """The same trunk, with sums of its own for what packs give."""
        other = Trunk(self.tokens)
        other._above = {
            attention: replace(
                above, key_grads=torch.zeros_like(above.key_grads), value_grads=torch.zeros_like(above.value_grads)
            )
            for attention, above in self._above.items()
        }
        return other

    def join(self, branch: "Trunk") -> None:
        """Add what packs gave to a branch."""
        for attention, above in self._above.items():
            above.key_grads.add_(branch.of(attention).key_grads)
            above.value_grads.add_(branch.of(attention).value_grads)

    def backward(self) -> None:
        """Send back what all packs gave."""
        pairs = [
            (x, grad.transpose(0, 1)[None].to(x.dtype))
            for above in self._above.values()
            for x, grad in zip(above.given, (above.key_grads, above.value_grads), strict=True)
            if x.requires_grad
        ]
        torch.autograd.backward([x for x, _ in pairs], [grad for _, grad in pairs])
