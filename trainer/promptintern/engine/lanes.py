"""Lanes: CPU threads that compute packs side by side through one model, each lane its own packs.

PyTorch's own threads share every operation and wait for each other at its end, a few thousand times per pack, while
Python runs on one of them. Lanes wait for each other only once per step. They need no second model: a pass only reads
the parameters, and everything that the engine records during a pass is thread-local. Every lane sums its own gradients,
and the sums are added in a fixed order, so that a resumed run gives bit-identical results.

The packs of all lanes together have as many tokens as a single pack would have, and keep as much memory for their
backward passes. What a layer allocates temporarily, such as the sum of its weights and LoRA's, exists once for every
lane. Every lane but the first also holds sums of the gradients of all parameters and of the shared prefix's keys and
values. Because their packs are smaller, lanes pay only where the shared prefix can hold most of what packs have in
common.
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
"""The constant ``M_ARENA_MAX`` of glibc's malloc.h."""
_MIN_PACK_TOKENS = 1024
"""Tokens of a lane's packs. In smaller ones, the cost of a pack besides its tokens becomes noticeable."""


def pin_thread_settings(device: torch.device) -> None:
    """Make PyTorch, and malloc on a CPU, behave as they do with lanes. Call it before any computation or thread starts.

    When PyTorch's number of threads is set for the first time, PyTorch forbids MKL to use fewer threads as it sees fit,
    which may change the rounding of sums. A resumed run has to compute as the first attempt did, whether or not it has
    had lanes yet. In addition, all threads share one heap instead of having one each, so that memory that one lane has
    freed can be used by the others.
    """
    torch.set_num_threads(torch.get_num_threads())
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def lane_threads(model: Any, device: torch.device) -> int:
    """Return the number of threads that lanes may use for ``model`` (PEFT's).

    It is 1 on a GPU, and where a pass does more than read the model: in 16 bits, where the engine rounds LoRA's
    parameters; with LoRA on parameters that are not in a linear layer, such as a mixture's experts, where PEFT stores
    its sums while it computes; and where a pass draws random numbers or changes a module, which is tried.
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
    """Whether a pass in training mode leaves the generator and all modules as an earlier pass of other tokens did."""
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
    """Return the number of lanes: a divisor of ``threads`` with which every lane has packs of at least 1,024 tokens.

    Args:
        threads: Number of threads that all lanes share evenly.
        tokens_per_pack: Tokens of the packs of all lanes together.
    """
    return largest_divisor(threads, tokens_per_pack // _MIN_PACK_TOKENS)


class LanePool:
    """The threads of the lanes. The calling thread is the first lane, and ``pool`` has one for each other lane."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._threads = torch.get_num_threads()
        self._pool = pool
        self._cancelled = threading.Event()

    def run(self, work: Callable[[L, Iterable[S]], None], shares: Sequence[tuple[L, Sequence[S]]]) -> None:
        """Call ``work`` with every lane and its items, all at the same time, and wait for all of them.

        If one call fails, the others stop before their next item, and the error is raised.
        """
        self._cancelled.clear()
        futures = []
        try:
            threads_per_lane = max(1, self._threads // len(shares))
            torch.set_num_threads(threads_per_lane)  # new threads inherit it
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
    """Yield threads for ``lanes`` lanes, which end with the block."""
    with ThreadPoolExecutor(max(1, lanes - 1), thread_name_prefix="lane") as pool:
        yield LanePool(pool)
