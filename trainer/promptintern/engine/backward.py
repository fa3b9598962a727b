"""The gradients of one optimizer step: a worker's packs through the model and back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from promptintern.engine import distributed
from promptintern.engine.adapter import Adapter
from promptintern.engine.attention.shared_prefix import Trunk
from promptintern.engine.lanes import Threads
from promptintern.engine.packing.forward import grow_trunk, pack_loss, pack_tensors
from promptintern.engine.packing.layout import Layout
from promptintern.engine.packing.planning import Pack, StepPlan
from promptintern.engine.throughput import Clock, clock_of
from promptintern.errors import RunFailed
from promptintern.prompt.encode import Encoded

Tensor = torch.Tensor


def gradients(
    adapter: Adapter,
    rows: Sequence[Encoded],
    step: StepPlan,
    layout: Layout,
    *,
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
    packs = step.workers[distributed.rank()]
    trunk = None
    if step.trunk and packs:
        trunk = grow_trunk(adapter.model, rows[packs[0].rows[0]].prompt_ids[: step.trunk], device=device)
        clock.lap("forward")

    def lane(*, first: bool) -> _Lane:
        return _Lane(
            adapter=adapter,
            rows=rows,
            layout=layout,
            loss_tokens=step.loss_tokens,
            device=device,
            clock=clock if first else clock_of(device),
            trunk=trunk if first or not trunk else trunk.branch(),
            grad=None if first else torch.zeros_like(adapter.grad),
            loss=torch.zeros((), dtype=torch.float64, device=device),
        )

    alone, shares = step.parts(distributed.rank())
    whole = lane(first=True)
    whole.take(alone)
    others = [lane(first=False) for _ in shares[1:]]
    if shares:
        threads.side_by_side(_Lane.take, list(zip([whole, *others], shares, strict=True)))
    for other in others:
        whole.add(other)
    if trunk:
        trunk.backward()
        whole.computed += trunk.tokens
    clock.lap("backward")  # with what the first lane waited for the others
    return whole.loss.item(), whole.computed


@dataclass(kw_only=True)
class _Lane:
    """Packs one after another, and what they add up to.

    Attributes:
        trunk: Above the packs, with the sums of this lane.
        grad: ``[P]``; None for the parameters' own, which only one lane may add to.
        loss: A float64 scalar.
        computed: Tokens that went through the model.
    """

    adapter: Adapter
    rows: Sequence[Encoded]
    layout: Layout
    loss_tokens: int
    device: torch.device
    clock: Clock
    trunk: Trunk | None
    grad: Tensor | None
    loss: Tensor
    computed: int = 0

    def take(self, packs: Iterable[Pack]) -> None:
        """Packs through the model and back."""
        for pack in packs:
            try:
                tensors = pack_tensors(
                    [self.rows[i] for i in pack.rows],
                    device=self.device,
                    cascade=self.layout.cascades,
                    shared=self.layout is Layout.SHARED,
                    trunk=self.trunk,
                )
                self.clock.lap("data")
                loss = pack_loss(self.adapter.model, tensors)
                self.clock.lap("forward")
                self._backward(loss / self.loss_tokens)
                self.clock.lap("backward")
            except torch.OutOfMemoryError:
                raise RunFailed(
                    f"{self.device} has too little memory for a pack of {pack.computed} tokens; lower "
                    "training.tokensPerPack or set training.gradientCheckpointing"
                ) from None
            self.loss += loss.detach()
            self.computed += tensors.input_ids.numel()

    def _backward(self, loss: Tensor) -> None:
        if self.grad is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self.adapter.add_gradients(loss, self.grad)

    def add(self, other: "_Lane") -> None:
        """What another lane's packs add up to."""
        assert other.grad is not None
        self.adapter.grad.add_(other.grad)
        if self.trunk and other.trunk:
            self.trunk.join(other.trunk)
        self.loss += other.loss
        self.computed += other.computed
