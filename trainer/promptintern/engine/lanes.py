"""Lanes: threads of a CPU that take packs side by side through one model, each its own.

PyTorch's threads share every operation and wait for each other at its end, a few thousand times a pack, while Python
runs on one of them. Threads with packs of their own wait once a step. They need no second model: a pass only reads the
parameters, and what the engine notes during one is each thread's own. Gradients go to sums of their own, which are
added up in one order, so a run that goes on ends in the same bits.

Together the lanes' packs have the tokens of one, and keep as much for their backward passes. What a layer takes for a
moment, such as the sum of its weights and LoRA's, every lane has once, and all but the first have sums for the
gradients of all parameters and of the trunk's keys and values. The packs are smaller, so this pays where most of what
they have in common can be a trunk.
"""

import ctypes
import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from promptintern.engine.fused.patching import in_mode
from promptintern.engine.packing.planning import largest_divisor

L = TypeVar("L")
S = TypeVar("S")
_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""
_LEAST = 1024
"""Tokens of a lane's packs. What a pack costs besides its tokens is felt in smaller ones."""


def settle_threads(device: torch.device) -> None:
    """Before anything is computed and any thread is started: let PyTorch, and malloc on a CPU, do as with lanes.

    The first time that PyTorch's number of threads is set, it forbids MKL to take fewer as it sees fit, which may round
    sums otherwise. A run that goes on has to compute as the first one did, whether or not it has had lanes yet. And all
    threads have one heap in place of one each, so that what a lane has freed others can take.
    """
    torch.set_num_threads(torch.get_num_threads())
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def threads_for(model: Any, device: torch.device) -> int:
    """Threads that may have packs of ``model`` (PEFT's) of their own.

    There is one where a pass does more than read: in 16 bits, where the engine rounds LoRA's parameters; on parameters
    that are in no linear layer, such as a mixture's experts, which PEFT puts its sums into while it computes; and where
    a pass draws random numbers or leaves something behind in a module, which is tried. And there is one on a GPU.
    """
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer

    threads = torch.get_num_threads() if device.type == "cpu" else 1
    layers = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    if threads == 1 or any(p.dtype is not torch.float32 for p in model.parameters()):
        return 1
    return threads if all(type(layer) is Linear for layer in layers) and _only_reads(model) else 1


@torch.no_grad()
def _only_reads(model: Any) -> bool:
    """Whether a pass in training leaves generator and modules as one of other tokens left them."""
    generator = torch.get_rng_state()
    try:
        with in_mode(model, training=True):
            model(input_ids=torch.arange(8)[None], use_cache=False)
            drawn = not torch.equal(torch.get_rng_state(), generator)
            attributes = {module: dict(vars(module)) for module in model.modules()}
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            model(input_ids=torch.arange(3, 8)[None], use_cache=False)
            return (
                not drawn
                and all(_same(vars(module), before) for module, before in attributes.items())
                and all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
            )
    finally:
        torch.set_rng_state(generator)


def _same(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return now.keys() == before.keys() and all(now[name] is value for name, value in before.items())


def lanes_of(threads: int, *, tokens_per_pack: int) -> int:
    """As many as have packs of 1,024 tokens, and each as many of the ``threads`` as the others."""
    return largest_divisor(threads, tokens_per_pack // _LEAST)


class Threads:
    """The calling thread, which is the first lane, and one for each of the others."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._all = torch.get_num_threads()
        self._pool = pool
        self._over = threading.Event()

    def side_by_side(self, work: Callable[[L, Iterable[S]], None], shares: Sequence[tuple[L, Sequence[S]]]) -> None:
        """``work`` of every lane and its items. If one fails, the others end before their next item."""
        self._over.clear()
        others = []
        try:
            each = max(1, self._all // len(shares))
            torch.set_num_threads(each)  # which a new thread begins with
            for lane, items in shares[1:]:
                others.append(self._pool.submit(self._in_lane, each, work, lane, items))
            lane, items = shares[0]
            work(lane, self._until_over(items))
            for other in others:
                other.result()
        finally:
            self._over.set()
            try:
                for other in others:
                    other.exception()
            finally:
                torch.set_num_threads(self._all)

    def _in_lane(self, threads: int, work: Callable[[L, Iterable[S]], None], lane: L, items: Sequence[S]) -> None:
        torch.set_num_threads(threads)
        try:
            work(lane, self._until_over(items))
        except BaseException:
            self._over.set()
            raise

    def _until_over(self, items: Sequence[S]) -> Iterator[S]:
        for item in items:
            if self._over.is_set():
                return
            yield item


@contextmanager
def threads_of(lanes: int) -> Iterator[Threads]:
    """Threads for so many lanes, which end with the block."""
    with ThreadPoolExecutor(max(1, lanes - 1), thread_name_prefix="lane") as pool:
        yield Threads(pool)
