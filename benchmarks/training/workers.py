"""Compares the training speed of one worker with that of two workers, each on one thread."""

import multiprocessing
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.training.material import Shape
from benchmarks.training.methods import Work, run
from benchmarks.training.processes import OURS, in_new_process, say


def scaling(material: Path, shape: Shape, *, rows: int, pack: int, repeats: int) -> dict[int, float]:
    """Return the median number of examples per second in the first stage, by the number of workers."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    work = Work.of_stage(material, 0, method="ours", rows=rows, size=pack, shape=shape)
    for repeat in range(repeats):
        for count, found in seconds.items():
            say(f"round {repeat + 1} of {repeats}: {count} worker{'s' if count > 1 else ''}")
            found.extend(in_new_process(group, work, count, method=OURS))
    return {count: rows / statistics.median(found) for count, found in seconds.items()}


def group(work: Work, count: int) -> list[float]:
    """Train with ``count`` workers that exchange gradients through gloo, and return the first worker's step times.

    The times are in seconds. The first step, in which libraries warm up, is left out.
    """
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(target=_worker, args=(work, rank, count, f"file://{folder}/meet", results))
            for rank in range(count)
        ]
        for worker in workers:
            worker.start()
        seconds: list[float] = results.get(timeout=600)
        for worker in workers:
            worker.join()
    return seconds


def _worker(work: Work, rank: int, count: int, meeting: str, results: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    seconds = run(work).seconds
    if rank == 0:
        results.put(seconds)
    dist.barrier()
    dist.destroy_process_group()
