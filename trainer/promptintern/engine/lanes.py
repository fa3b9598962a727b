"""Lanes: CPU threads that compute packs at the same time with one model; each lane computes its own packs.

PyTorch's own threads share the work of every operation and wait for each other at the end of the operation, a few
thousand times per pack, and Python code runs on only one of them. Lanes wait for each other only once per step. They
need no second copy of the model: a pass only reads the parameters, and everything that the engine records during a pass
is thread-local. Every lane sums its own gradients, and the sums of all lanes are added in a fixed order, so that a
resumed run reproduces the same bits.

The packs that all lanes compute at the same time have, in total, as many tokens as a single pack would have without
lanes, and keep the same amount of memory for their backward passes. What a layer allocates temporarily, such as the sum
of its base and LoRA weights, is allocated once per lane. Every lane except the first also holds its own sums of the
gradients of all parameters and of the keys and values of the shared prefix. Because the packs of lanes are smaller,
lanes pay only if the shared prefix can hold most of the tokens that packs have in common.
"""

import ctypes
import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from promptintern.engine.fused.patching import train_mode
from promptintern.engine.packing.planning import largest_divisor

L = TypeVar("L")
S = TypeVar("S")
_M_ARENA_MAX = -8
"""The value of the constant ``M_ARENA_MAX`` in glibc's ``malloc.h``."""
_MIN_PACK_TOKENS = 1024
"""The minimum number of tokens for which the packs of a lane must have room. In smaller packs, the fixed cost of a pack
becomes noticeable."""


def pin_thread_settings(device: torch.device) -> None:
    """Set up PyTorch's threads, and malloc on a CPU, in the same way for runs with and without lanes.

    Call this function before any computation or thread starts. Once the number of PyTorch's threads has been set,
    PyTorch no longer lets MKL choose to use fewer threads, which may change the rounding of sums. A resumed run must
    compute exactly as the first attempt did, whether or not it has used lanes yet. In addition, all threads share one
    heap instead of having one heap each, so that memory that one lane has freed can be used by the other lanes.
    """
    torch.set_num_threads(torch.get_num_threads())
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def lane_threads(model: Any, device: torch.device) -> int:
    """Return the number of threads that lanes may use for the PEFT model ``model``.

    The number is 1 on a GPU, and if a forward or backward pass does more than read the model. This is the case in 16
    bits, where the engine rounds the LoRA parameters; with LoRA on parameters outside linear layers, such as the
    experts of a mixture, where PEFT stores the summed weights during the pass; and if a forward pass draws random
    numbers or changes a module, which is tested on the model.
    """
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer

    threads = torch.get_num_threads() if device.type == "cpu" else 1
    layers = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    if threads == 1 or any(p.dtype is not torch.float32 for p in model.parameters()):
        return 1
    return threads if all(type(layer) is Linear for layer in layers) and _has_no_side_effects(model) else 1


@torch.no_grad()
def _has_no_side_effects(model: Any) -> bool:
    """Return whether a forward pass in training mode draws no random numbers and changes no module.

    Two passes with different tokens are tried, because modules may still set themselves up in the first one: the first
    must draw no random numbers, and the second must not change any module.
    """
    rng_state = torch.get_rng_state()
    try:
        with train_mode(model, training=True):
            model(input_ids=torch.arange(8)[None], use_cache=False)
            has_drawn = not torch.equal(torch.get_rng_state(), rng_state)
            attributes = {module: dict(vars(module)) for module in model.modules()}
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            model(input_ids=torch.arange(3, 8)[None], use_cache=False)
            return (
                not has_drawn
                and all(_are_same(vars(module), before) for module, before in attributes.items())
                and all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
            )
    finally:
        torch.set_rng_state(rng_state)


def _are_same(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return now.keys() == before.keys() and all(now[name] is value for name, value in before.items())


def lane_count(threads: int, *, tokens_per_pack: int) -> int:
    """Return the largest divisor of ``threads`` that leaves each lane packs of at least 1,024 tokens, or 1.

    Args:
        threads: The number of threads, which are divided evenly among the lanes.
        tokens_per_pack: The maximum number of tokens, in total, in the packs that all lanes compute at the same time.
    """
    return largest_divisor(threads, tokens_per_pack // _MIN_PACK_TOKENS)


class LanePool:
    """The threads of the lanes. The calling thread is the first lane; ``pool`` has one thread for each other lane."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._threads = torch.get_num_threads()
        self._pool = pool
        self._cancelled = threading.Event()

    def run(self, work: Callable[[L, Iterable[S]], None], shares: Sequence[tuple[L, Sequence[S]]]) -> None:
        """Call ``work(lane, items)`` for each pair in ``shares``, all at the same time, and wait for all calls to end.

        If a call fails, the other calls stop before their next item, and the error of the failed call is raised.
        """
        self._cancelled.clear()
        futures = []
        try:
            threads_per_lane = max(1, self._threads // len(shares))
            torch.set_num_threads(threads_per_lane)  # new threads inherit this number
            for lane, items in shares[1:]:
                futures.append(self._pool.submit(self._in_lane, threads_per_lane, work, lane, items))
            lane, items = shares[0]
            work(lane, self._until_cancelled(items))
            for future in futures:
                future.result()
        finally:
            self._cancelled.set()
            try:
                for future in futures:
                    future.exception()
            finally:
                torch.set_num_threads(self._threads)

    def _in_lane(self, threads: int, work: Callable[[L, Iterable[S]], None], lane: L, items: Sequence[S]) -> None:
        torch.set_num_threads(threads)
        try:
            work(lane, self._until_cancelled(items))
        except BaseException:
            self._cancelled.set()
            raise

    def _until_cancelled(self, items: Sequence[S]) -> Iterator[S]:
        for item in items:
            if self._cancelled.is_set():
                return
            yield item


@contextmanager
def lane_pool(lanes: int) -> Iterator[LanePool]:
    """Yield the threads for ``lanes`` lanes; the threads end with the ``with`` block."""
    with ThreadPoolExecutor(max(1, lanes - 1), thread_name_prefix="lane") as pool:
        yield LanePool(pool)
