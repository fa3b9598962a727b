"""The collective operations that training needs. They also work in a single process without a process group."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """Return the rank of this worker, or 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of workers, or 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_sum(tensor: torch.Tensor) -> None:
    """Sum ``tensor`` over all workers, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)


def any_worker(flag: bool) -> bool:
    """Return whether ``flag`` is set on any worker; the result is the same on all workers."""
    total = torch.tensor(float(flag))
    all_reduce_sum(total)
    return bool(total > 0)


def broadcast(tensor: torch.Tensor) -> None:
    """Copy the values of ``tensor`` on rank 0 to all other workers, in place."""
    if dist.is_initialized():
        dist.broadcast(tensor, src=0)


def broadcast_object(value: Any) -> Any:
    """Return, on every worker, the ``value`` of rank 0.

    The value is pickled, which is safe because all workers are in one trust domain.
    """
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_rank_zero(read: Callable[[], T]) -> T:
    """Call ``read`` on rank 0 only, and return the result on every worker, so that all workers use the same data."""
    value: T = broadcast_object(read() if rank() == 0 else None)
    return value


def gather_objects(value: Any) -> list[Any]:
    """Return, on every worker, the list of every worker's ``value`` in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def own_share(count: int) -> range:
    """Return the indices, among ``count`` items, of the items that this worker computes: every ``world_size``-th."""
    return range(rank(), count, world_size())


def gather_shares(own: Sequence[T], count: int) -> list[T]:
    """Return, on every worker, all ``count`` items in order. ``own`` are the items of this worker's ``own_share``."""
    shares = gather_objects(list(own))
    return [shares[i % len(shares)][i // len(shares)] for i in range(count)]


def barrier() -> None:
    """Wait until all workers have reached this call."""
    if dist.is_initialized():
        dist.barrier()
