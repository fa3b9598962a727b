"""Measures how the time of a step of our engine, in the first stage, divides into kinds of operations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from benchmarks.training.material import Shape
from benchmarks.training.methods import Work, train_ours
from benchmarks.training.processes import OURS, in_new_process, say

_PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::addmm_": 1, "aten::baddbmm": 1}
"""The matrix products, with the position of the first factor among the tensor arguments."""
_ATTENTION = "_attention_for_cpu"
PRODUCTS, SHARED, OWN, REST = (
    "matrix products",
    "attention to shared tokens",
    "causal attention within a node of the tree",
    "norms, positions, activations, loss, copies, Python, waiting",
)

ATTENTION, OTHERS, WAITING = (
    "attention",
    "norms, positions, activations, loss, copies",
    "waiting for the host",
)


PACK = {"cpu": 2048, "cuda": 32768}
"""The pack size in tokens for each device. The size for a CPU is the default of ``tokensPerPack``."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """The time spent on one kind of operation.

    Attributes:
        share: The share of the step's time that was spent on this kind.
        gflops: The total speed of all lanes in 10^9 operations per second during this time, or None if operations were
            not counted. The computation of the shared prefix counts as the work of one lane.
    """

    share: float
    gflops: float | None = None


def shares(material: Path, shape: Shape, *, rows: int) -> dict[str, Spent]:
    """Profile two steps of ``rows`` rows, and return how the time of the second divides into kinds of operations."""
    say("profile of the first stage")
    work = Work.of_stage(material, 0, method="ours", rows=rows, size=PACK[shape.device], shape=shape)
    return in_new_process(_profile, work, method=OURS)


def _profile(work: Work) -> dict[str, Spent]:
    on_gpu = work.shape.device != "cpu"
    kinds = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    lanes = _ExperimentalConfig(profile_all_threads=not on_gpu)
    profiler = profile(activities=kinds, record_shapes=not on_gpu, acc_events=True, experimental_config=lanes)

    def after_step(done: int) -> None:
        if done == 1:
            profiler.start()
        else:
            profiler.stop()

    done = train_ours(work, after_step)
    return _by_kernel(profiler, done.seconds[-1]) if on_gpu else _by_operation(profiler, done.seconds[-1], done.lanes)


def _by_kernel(profiler: Any, step: float) -> dict[str, Spent]:
    """Return the share of a step's time by kind of GPU kernel.

    Attention to shared tokens is not a separate kind, because the profile of a GPU does not show it separately.
    """
    spent = dict.fromkeys((PRODUCTS, ATTENTION, OTHERS), 0.0)
    for event in profiler.key_averages():
        kinds = [
            kind
            for kind, words in ((ATTENTION, ("flash", "fmha")), (PRODUCTS, ("nvjet", "gemm", "cutlass")))
            if any(word in event.key for word in words)
        ]
        spent[kinds[0] if kinds else OTHERS] += event.self_device_time_total / 1e6
    assert spent[PRODUCTS] > 0 and spent[ATTENTION] > 0, "the profiler saw none of them"
    return {kind: Spent(share=seconds / step) for kind, seconds in spent.items()} | {
        WAITING: Spent(share=1 - sum(spent.values()) / step)
    }


def _by_operation(profiler: Any, step: float, lanes: int) -> dict[str, Spent]:
    """Return the share of a step's time on a CPU, and the speed, by kind of operation, over all lanes."""
    seconds = dict.fromkeys((PRODUCTS, SHARED, OWN), 0.0)
    operations = dict.fromkeys(seconds, 0.0)
    for event in profiler.key_averages(group_by_input_shape=True):
        found = _kind(event.key, event.input_shapes)
        if found is not None:
            kind, each = found
            seconds[kind] += event.self_cpu_time_total / 1e6
            operations[kind] += each * event.count
    assert seconds[PRODUCTS] > 0 and seconds[OWN] > 0, "the profiler saw none of them"
    return {
        kind: Spent(share=taken / step / lanes, gflops=lanes * operations[kind] / taken / 1e9 if taken else None)
        for kind, taken in seconds.items()
    } | {REST: Spent(share=1 - sum(seconds.values()) / step / lanes)}


def _kind(key: str, shapes: Sequence[Sequence[int]]) -> tuple[str, float] | None:
    """Return the kind of an operation, and how many additions and multiplications it takes, or None if not counted.

    The product of ``[..., M, K]`` and ``[..., K, N]`` takes ``2 M K N`` operations. Attention takes two such products
    over queries, keys and head width in the forward pass, and five in the backward pass. Causal attention takes half
    as many operations.
    """
    if key in _PRODUCTS:
        one, other = [shape for shape in shapes if shape][_PRODUCTS[key] :][:2]
        return PRODUCTS, 2.0 * math.prod(one) * other[-1]
    if _ATTENTION in key:
        backward = "backward" in key
        q, k = shapes[1:3] if backward else shapes[:2]  # the backward pass takes the output's gradient first
        whole = (10.0 if backward else 4.0) * math.prod(q) * k[-2]
        return (OWN, whole / 2) if q[-2] == k[-2] else (SHARED, whole)
    return None


def threads() -> int:
    """Return the number of threads that PyTorch uses in this process."""
    return torch.get_num_threads()


def gpu_name() -> str:
    """Return the name of the GPU that CUDA reports."""
    return torch.cuda.get_device_name()
