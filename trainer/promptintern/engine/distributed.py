"""The few collective operations that training needs, the same for one process and for many."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """The rank of this worker; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of workers; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_sum(tensor: torch.Tensor) -> None:
    """Sum ``tensor`` over all workers, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)


def any_worker(flag: bool) -> bool:
    """Return whether ``flag`` is set on any worker; all workers get the same answer."""
    total = torch.tensor(float(flag))
    all_reduce_sum(total)
    return bool(total > 0)


def broadcast(tensor: torch.Tensor) -> None:
    """Copy rank 0's values of ``tensor`` to all workers, in place."""
    if dist.is_initialized():
        dist.broadcast(tensor, src=0)


def broadcast_object(value: Any) -> Any:
    """Return rank 0's ``value`` on every worker. Workers are one trust domain, so pickling between them is fine."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_rank_zero(read: Callable[[], T]) -> T:
    """Call ``read`` on rank 0 and return its value on every worker, so that all workers see the same storage."""
    value: T = broadcast_object(read() if rank() == 0 else None)
    return value


def gather_objects(value: Any) -> list[Any]:
    """Return every worker's ``value``, by rank, on every worker."""
    if not dist.is_initialized():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def barrier() -> None:
    """Wait for all workers."""
    if dist.is_initialized():
        dist.barrier()
