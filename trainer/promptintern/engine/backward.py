"""The computation of one step's gradients: the forward and backward passes of a worker's packs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from promptintern.engine import distributed
from promptintern.engine.adapter import Adapter
from promptintern.engine.attention.shared_prefix import SharedPrefix
from promptintern.engine.lanes import LanePool
from promptintern.engine.packing.forward import compute_shared_prefix, pack_loss, pack_tensors
from promptintern.engine.packing.layout import PackLayout
from promptintern.engine.packing.planning import Pack, StepPlan
from promptintern.engine.throughput import ActivityClock, activity_clock
from promptintern.errors import RunFailed
from promptintern.prompt.encode import Encoded

Tensor = torch.Tensor


def compute_gradients(
    adapter: Adapter,
    rows: Sequence[Encoded],
    step: StepPlan,
    layout: PackLayout,
    *,
    pool: LanePool,
    device: torch.device,
    clock: ActivityClock,
) -> tuple[float, int]:
    """Compute the gradients of a step's mean loss per answer token, and store them in ``adapter.grad``.

    Returns:
        The summed loss of this worker, and the number of tokens that its model computed.

    Raises:
        RunFailed: if the device has too little memory for a pack.
    """
    adapter.grad.zero_()
    packs = step.workers[distributed.rank()]
    shared_prefix = None
    if step.prefix_tokens and packs:
        ids = rows[packs[0].rows[0]].prompt_ids[: step.prefix_tokens]
        shared_prefix = compute_shared_prefix(adapter.model, ids, device=device)
        clock.record("forward")

    def new_lane(*, is_first: bool) -> _Lane:
        return _Lane(
            adapter=adapter,
            rows=rows,
            layout=layout,
            loss_tokens=step.loss_tokens,
            device=device,
            clock=clock if is_first else activity_clock(device),
            shared_prefix=shared_prefix if is_first or not shared_prefix else shared_prefix.fork(),
            grad=None if is_first else torch.zeros_like(adapter.grad),
            loss=torch.zeros((), dtype=torch.float64, device=device),
        )

    serial_packs, lane_packs = step.split_by_lane(distributed.rank())
    first = new_lane(is_first=True)
    first.run(serial_packs)
    others = [new_lane(is_first=False) for _ in lane_packs[1:]]
    if lane_packs:
        pool.run(_Lane.run, list(zip([first, *others], lane_packs, strict=True)))
    for other in others:
        first.add(other)
    if shared_prefix:
        shared_prefix.backward()
        first.computed += shared_prefix.tokens
    clock.record("backward")  # includes the first lane's wait for the other lanes
    return first.loss.item(), first.computed


@dataclass(kw_only=True)
class _Lane:
    """A lane, which computes packs one after another and sums their losses and gradients.

    Attributes:
        shared_prefix: The shared prefix above the packs, with this lane's gradient sums.
        grad: The lane's sum of gradients ``[P]``. If it is None, the lane adds its gradients to the ``.grad`` of the
            parameters, which only one lane may do.
        loss: The summed loss, a float64 scalar.
        computed: The number of tokens that the model computed.
    """

    adapter: Adapter
    rows: Sequence[Encoded]
    layout: PackLayout
    loss_tokens: int
    device: torch.device
    clock: ActivityClock
    shared_prefix: SharedPrefix | None
    grad: Tensor | None
    loss: Tensor
    computed: int = 0

    def run(self, packs: Iterable[Pack]) -> None:
        """Run the forward and backward passes of ``packs``."""
        for pack in packs:
            try:
                tensors = pack_tensors(
                    [self.rows[i] for i in pack.rows],
                    device=self.device,
                    tree_attention=self.layout.uses_tree_attention,
                    share_prefixes=self.layout is PackLayout.PREFIX_TREE,
                    shared_prefix=self.shared_prefix,
                )
                self.clock.record("data")
                loss = pack_loss(self.adapter.model, tensors)
                self.clock.record("forward")
                self._backward(loss / self.loss_tokens)
                self.clock.record("backward")
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
        """Add the sums of the lane ``other`` to the sums of this lane."""
        assert other.grad is not None
        self.adapter.grad.add_(other.grad)
        if self.shared_prefix and other.shared_prefix:
            self.shared_prefix.add_gradients_of(other.shared_prefix)
        self.loss += other.loss
        self.computed += other.computed
