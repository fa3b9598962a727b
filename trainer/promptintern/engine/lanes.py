"""Lanes: threads of a CPU that take packs side by side through one model, each its own.

PyTorch's threads share every operation and wait for each other at its end, a few thousand times a pack, while Python
runs on one of them. Threads with packs of their own wait once a step. They need no second model: a pass only reads the
parameters, and what the engine notes during one is each thread's own. Gradients go to sums of their own, which are
added up in one order, so a run that goes on ends in the same bits.

Together the lanes' packs have the tokens of one, and take as much memory. They are smaller, so this pays below a trunk.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from promptintern.engine.packs import Pack, dealt

S = TypeVar("S")
T = TypeVar("T")
_LEAST = 1024
"""Tokens of a lane's packs. What a pack costs besides its tokens is felt in smaller ones."""


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """How many packs go through a worker's model at a time.

    Attributes:
        count: 1 where threads share every operation.
        tokens: Of a pack, so that all at a time have no more than one pack would have.
    """

    count: int
    tokens: int


def threads_for(model: Any, device: torch.device) -> int:
    """That lanes of ``model`` (PEFT's) can have: one on a GPU, and where PEFT changes a module while it computes, which
    it does for parameters that are in no linear layer, such as a mixture's experts."""
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    if device.type != "cpu" or not all(type(layer) is Linear for layer in layers):
        return 1
    return torch.get_num_threads()


def lanes_of(threads: int, *, tokens_per_pack: int) -> Lanes:
    """As many as have packs of 1,024 tokens, and each as many of the ``threads`` as the others."""
    most = max(1, min(threads, tokens_per_pack // _LEAST))
    count = next(n for n in range(most, 0, -1) if threads % n == 0)
    return Lanes(count=count, tokens=tokens_per_pack // count)


def divided(packs: Sequence[Pack], lanes: Lanes) -> tuple[list[Pack], list[tuple[Pack, ...]]]:
    """Packs that go alone, with all threads, and those of every lane.

    A row may be longer than a lane's packs; several of those at a time would take memory that nobody planned for.
    """
    small = [pack for pack in packs if pack.computed <= lanes.tokens]
    if lanes.count == 1 or len(small) < lanes.count:
        return list(packs), []
    return [pack for pack in packs if pack.computed > lanes.tokens], list(dealt(small, lanes.count))


class Threads:
    """The calling thread, which is the first lane, and one for each of the others."""

    def __init__(self, count: int, pool: ThreadPoolExecutor) -> None:
        self._all = torch.get_num_threads()
        self._each = max(1, self._all // count)
        self._pool = pool
        self._over = threading.Event()

    def side_by_side(self, work: Callable[[Iterable[S]], T], shares: Sequence[Sequence[S]]) -> list[T]:
        """``work`` of all shares, in their order. If one fails, the others end before their next item."""
        self._over.clear()
        torch.set_num_threads(self._each)  # what a new thread begins with, too
        others = [self._pool.submit(self._in_lane, work, share) for share in shares[1:]]
        try:
            return [work(self._until_over(shares[0])), *(other.result() for other in others)]
        finally:
            self._over.set()
            for other in others:
                other.exception()
            torch.set_num_threads(self._all)

    def _in_lane(self, work: Callable[[Iterable[S]], T], share: Sequence[S]) -> T:
        torch.set_num_threads(self._each)
        try:
            return work(self._until_over(share))
        except BaseException:
            self._over.set()
            raise

    def _until_over(self, share: Sequence[S]) -> Iterator[S]:
        for item in share:
            if self._over.is_set():
                return
            yield item


@contextmanager
def threads_of(lanes: Lanes) -> Iterator[Threads]:
    """Threads for as many lanes, which end with the block."""
    with ThreadPoolExecutor(max(1, lanes.count - 1), thread_name_prefix="lane") as pool:
        yield Threads(lanes.count, pool)
