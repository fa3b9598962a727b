"""What our step's time goes to: a step of the first stage, by kind of operation."""

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.training.material import Shape
from benchmarks.training.methods import Work, train_ours
from benchmarks.training.processes import OURS, in_new_process, say

_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addmm_")
_ATTENTION = "_attention_for_cpu"
PRODUCTS, SHARED, OWN, REST = (
    "matrix products",
    "attention to what is shared",
    "causal attention within a node of the tree",
    "norms, positions, activation, loss, copies, Python",
)

ATTENTION, OTHERS, WAITING = (
    "attention",
    "norms, positions, activation, loss, copies",
    "waiting for the host",
)


PACK = {"cpu": 2048, "cuda": 32768}
"""Tokens of the packs, by device: on a CPU a run's own default."""


def shares(material: Path, shape: Shape, *, rows: int) -> dict[str, float]:
    """Shares of the second step's time, by kind of operation."""
    say("profile of the first stage")
    work = Work.of_stage(material, 0, method="ours", rows=rows, size=PACK[shape.device], shape=shape)
    return in_new_process(_profile, work, method=OURS)


def _profile(work: Work) -> dict[str, float]:
    on_gpu = work.shape.device != "cpu"
    kinds = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    profiler = profile(activities=kinds, record_shapes=not on_gpu, acc_events=True)

    def after_step(done: int) -> None:
        if done == 1:
            profiler.start()
        else:
            profiler.stop()

    done = train_ours(work, after_step)
    return _by_kernel(profiler, done.seconds[-1]) if on_gpu else _by_operation(profiler, done.seconds[-1])


def _by_kernel(profiler: Any, step: float) -> dict[str, float]:
    """On a GPU, where attention is not told apart by what it attends to."""
    spent = dict.fromkeys((PRODUCTS, ATTENTION, OTHERS), 0.0)
    for event in profiler.key_averages():
        kinds = [
            kind
            for kind, words in ((ATTENTION, ("flash", "fmha")), (PRODUCTS, ("nvjet", "gemm", "cutlass")))
            if any(word in event.key for word in words)
        ]
        spent[kinds[0] if kinds else OTHERS] += event.self_device_time_total / 1e6
    assert spent[PRODUCTS] > 0 and spent[ATTENTION] > 0, "the profiler saw none of them"
    return {kind: seconds / step for kind, seconds in spent.items()} | {WAITING: 1 - sum(spent.values()) / step}


def _by_operation(profiler: Any, step: float) -> dict[str, float]:
    spent = dict.fromkeys((PRODUCTS, SHARED, OWN), 0.0)
    for event in profiler.key_averages(group_by_input_shape=True):
        kind = _kind(event)
        if kind is not None:
            spent[kind] += event.self_cpu_time_total / 1e6
    assert spent[PRODUCTS] > 0 and spent[OWN] > 0, "the profiler saw none of them"
    return {kind: seconds / step for kind, seconds in spent.items()} | {REST: 1 - sum(spent.values()) / step}


def _kind(event: Any) -> str | None:
    if event.key in _PRODUCTS:
        return PRODUCTS
    if _ATTENTION in event.key:
        queries, keys = _lengths(event)
        return OWN if queries == keys else SHARED
    return None


def _lengths(event: Any) -> tuple[int, int]:
    """Of queries and keys, ``[batch, heads, length, width]``; a backward call has the output's gradient before them."""
    first = 1 if "backward" in event.key else 0
    return event.input_shapes[first][2], event.input_shapes[first + 1][2]


def threads() -> int:
    """That PyTorch takes here."""
    return torch.get_num_threads()


def gpu_name() -> str:
    """As CUDA calls it."""
    return torch.cuda.get_device_name()
