"""The gradients of one optimizer step: a worker's packs through the model and back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from promptintern.engine import collective
from promptintern.engine.forward import grow_trunk, pack_loss, pack_tensors
from promptintern.engine.lanes import Lanes, Threads, divided
from promptintern.engine.layout import Layout
from promptintern.engine.lora import Adapter
from promptintern.engine.packs import Pack, StepPlan
from promptintern.engine.speed import Clock, Part, clock_of
from promptintern.engine.trunk import Trunk
from promptintern.errors import RunFailed
from promptintern.prompt.encode import Encoded

Tensor = torch.Tensor


def gradients(
    adapter: Adapter,
    rows: Sequence[Encoded],
    step: StepPlan,
    layout: Layout,
    *,
    lanes: Lanes,
    threads: Threads,
    device: torch.device,
    clock: Clock,
) -> tuple[float, int]:
    """Gradients of the mean loss per answer token into ``adapter.grad``.

    Returns:
        This worker's summed loss, and the tokens that went through its model.

    Raises:
        RunFailed: if the device has too little memory for a pack.
    """
    adapter.grad.zero_()
    packs = step.workers[collective.rank()]
    trunk = None
    if step.trunk and packs:
        trunk = grow_trunk(adapter.model, rows[packs[0].rows[0]].prompt_ids[: step.trunk], device=device)
        clock.lap("forward")
    way = _Way(adapter=adapter, rows=rows, layout=layout, loss_tokens=step.loss_tokens, device=device)
    alone, shares = divided(packs, lanes)
    total, computed = way.take(alone, trunk=trunk, backward=lambda loss: loss.backward(), clock=clock)  # type: ignore[no-untyped-call]
    if shares:
        found = threads.side_by_side(lambda share: way.lane(share, trunk), shares)
        spent: dict[Part, float] = {}
        for lane in found:
            adapter.grad.add_(lane.grad)
            total += lane.loss
            computed += lane.computed
            if trunk and lane.trunk:
                trunk.join(lane.trunk)
            for part, seconds in lane.spent.items():
                spent[part] = spent.get(part, 0.0) + seconds
        clock.lap_as(spent)
    if trunk:
        trunk.backward()
        clock.lap("backward")
        computed += trunk.tokens
    return total.item(), computed


@dataclass(frozen=True, kw_only=True)
class _Lane:
    """What one lane's packs gave."""

    loss: Tensor
    computed: int
    grad: Tensor
    trunk: Trunk | None
    spent: dict[Part, float]


@dataclass(frozen=True, kw_only=True)
class _Way:
    """Through the model and back."""

    adapter: Adapter
    rows: Sequence[Encoded]
    layout: Layout
    loss_tokens: int
    device: torch.device

    def take(
        self, packs: Iterable[Pack], *, trunk: Trunk | None, backward: Callable[[Tensor], None], clock: Clock
    ) -> tuple[Tensor, int]:
        """Packs one after another; gives their summed loss, a float64 scalar, and their tokens."""
        computed = 0
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for pack in packs:
            try:
                tensors = pack_tensors(
                    [self.rows[i] for i in pack.rows],
                    device=self.device,
                    cascade=self.layout.cascades,
                    shared=self.layout is Layout.SHARED,
                    trunk=trunk,
                )
                clock.lap("data")
                loss = pack_loss(self.adapter.model, tensors)
                clock.lap("forward")
                backward(loss / self.loss_tokens)
                clock.lap("backward")
            except torch.OutOfMemoryError:
                raise RunFailed(
                    f"{self.device} has too little memory for a pack of {pack.computed} tokens; lower "
                    "training.tokensPerPack or set training.gradientCheckpointing"
                ) from None
            total += loss.detach()
            computed += tensors.input_ids.numel()
        return total, computed

    def lane(self, packs: Iterable[Pack], trunk: Trunk | None) -> _Lane:
        """Packs of one lane, into sums of its own."""
        grad = torch.zeros_like(self.adapter.grad)
        branch = trunk.branch() if trunk else None
        clock = clock_of(self.device)
        loss, computed = self.take(
            packs, trunk=branch, backward=lambda loss: self.adapter.add_gradients(loss, grad), clock=clock
        )
        return _Lane(loss=loss, computed=computed, grad=grad, trunk=branch, spent=clock.take())
