"""The keys and values of the rows that are being answered: one slot for each row, in memory that is allocated once.

The rows that are being answered are in the first slots, without a gap, so that a step reads one range of memory. If a
row ends, the row in the last of these slots moves to its place.
"""

from dataclasses import dataclass

import torch
from torch import nn

from promptintern.engine.attention.shared_prefix import LayerKeys

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class LayerSlots:
    """The slots of one layer.

    Attributes:
        keys: The keys ``[S, H, L, D]`` of up to L tokens in each of S slots.
        values: The values ``[S, H, L, D]``.
    """

    keys: Tensor
    values: Tensor


class RecordedKeys:
    """The keys and values that a model computed for the tokens of one call, in every layer.

    Attributes:
        tokens: The number of these tokens.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.layers: dict[nn.Module, LayerKeys] = {}

    def record(self, attention: nn.Module, attached: tuple[Tensor, Tensor]) -> None:
        """Keep the keys and values ``[1, H, T, D]`` that the module ``attention`` computed."""
        keys, values = (x.detach()[0].transpose(0, 1) for x in attached)
        self.layers[attention] = LayerKeys(keys=keys, values=values)

    def of_layer(self, attention: nn.Module) -> LayerKeys:
        """Return the keys and values ``[T, H, D]`` in the layer whose attention module is ``attention``."""
        return self.layers[attention]


class Slots:
    """The slots of all layers.

    Attributes:
        count: The number of slots.
        tokens: The number of tokens for which each slot has room.
    """

    def __init__(self, count: int, tokens: int) -> None:
        self.count, self.tokens = count, tokens
        self._layers: dict[nn.Module, LayerSlots] = {}

    def of_layer(self, attention: nn.Module) -> LayerSlots:
        """Return the slots of the layer whose attention module is ``attention``."""
        return self._layers[attention]

    def fill(self, first: int, computed: RecordedKeys, indices: Tensor) -> None:
        """Copy the keys and values of R rows into the slots from ``first`` on.

        Args:
            first: The number of the first row's slot.
            computed: The keys and values of the call that computed the rows.
            indices: The indices ``[R, N]`` of the rows' tokens among the tokens of the call; a row with fewer than N
                tokens is padded with any index.
        """
        rows, tokens = indices.shape
        for attention, layer in computed.layers.items():
            if attention not in self._layers:
                self._layers[attention] = LayerSlots(keys=self._empty(layer.keys), values=self._empty(layer.values))
            slots = self._layers[attention]
            for place, computed_ones in ((slots.keys, layer.keys), (slots.values, layer.values)):
                place[first : first + rows, :, :tokens] = computed_ones[indices].transpose(1, 2)
                # What an earlier row left is masked, but a number that is not finite would pass the mask.
                place[first : first + rows, :, tokens:].zero_()

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first ``tokens`` tokens of the slot ``source`` to the slot ``target``."""
        for layer in self._layers.values():
            for x in (layer.keys, layer.values):
                x[target, :, :tokens] = x[source, :, :tokens]

    def _empty(self, x: Tensor) -> Tensor:
        """Return zeros ``[S, H, L, D]`` for tokens such as those of ``x`` ``[T, H, D]``.

        They are zeros, because a masked value of NaN would still make a sum NaN.
        """
        return x.new_zeros((self.count, x.shape[1], self.tokens, x.shape[2]))
