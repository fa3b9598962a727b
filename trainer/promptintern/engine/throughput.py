"""The time of each activity of training, the floating-point operations of training, and the peak FLOP/s of GPUs."""

import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from promptintern.engine.adapter import Adapter

Activity = Literal["data", "forward", "backward", "exchange", "optimizer", "save"]
"""An activity of a step. The first lane of the first worker measures the time of each activity.

``exchange`` is the all-reduce of gradients, which occurs only with several workers and includes the time spent waiting
for the other workers. ``optimizer`` includes clipping. ``save`` is the time for which reports and checkpoints block the
training loop.
"""

_TERA = 1e12
_PEAKS: dict[str, dict[torch.dtype, float]] = {
    "B200": {torch.bfloat16: 2250},
    "H200 NVL": {torch.bfloat16: 835, torch.float32: 60},
    "H200": {torch.bfloat16: 989, torch.float32: 67},
    "H100 NVL": {torch.bfloat16: 835, torch.float32: 60},
    "H100 PCIe": {torch.bfloat16: 756, torch.float32: 51},
    "H100 80GB HBM3": {torch.bfloat16: 989, torch.float32: 67},
    "A100": {torch.bfloat16: 312, torch.float32: 19.5},
    "A10": {torch.bfloat16: 125, torch.float32: 31.2},
    "L40S": {torch.bfloat16: 362, torch.float32: 91.6},
    "L4": {torch.bfloat16: 121, torch.float32: 30.3},
    "V100-SXM2": {torch.float32: 15.7},
    "T4": {torch.float32: 8.1},
}
"""The peak TFLOP/s of GPUs by words in the GPU's name, from NVIDIA's data sheets; the first word that matches is used.
The figures are for dense products: bfloat16 with tensor cores, and float32 without tensor cores (PyTorch does not round
to TF32 by default)."""


class ActivityClock:
    """A clock that assigns all elapsed time, without gaps, to activities.

    Args:
        mark: A function that returns a mark of the present moment.
        between: A function that returns the number of seconds from one mark to a later mark, or None if the device has
            not reached the later mark yet.
    """

    def __init__(self, mark: Callable[[], Any], between: Callable[[Any, Any], float | None]) -> None:
        self._mark = mark
        self._between = between
        self._last = mark()
        self._open: deque[tuple[Activity, Any, Any]] = deque()

    def record(self, activity: Activity) -> None:
        """Assign the time since the previous record to ``activity``."""
        now = self._mark()
        self._open.append((activity, self._last, now))
        self._last = now

    def collect(self) -> dict[Activity, float]:
        """Return the number of seconds recorded for each activity since the last call of this method.

        This method does not wait for the device. If the device has not yet reached the moment of a call of ``record``,
        a later call of this method returns the time up to that moment.
        """
        seconds_by_activity: dict[Activity, float] = {}
        while self._open:
            activity, start, end = self._open[0]
            seconds = self._between(start, end)
            if seconds is None:
                break
            self._open.popleft()
            seconds_by_activity[activity] = seconds_by_activity.get(activity, 0.0) + seconds
        return seconds_by_activity


def activity_clock(device: torch.device) -> ActivityClock:
    """Return a running clock for ``device``.

    On CUDA, the marks are events in the stream, so the clock measures the time of the GPU. This time includes the time
    that the GPU waits for the host, and excludes what the host does while the GPU computes.
    """
    if device.type != "cuda":
        return ActivityClock(time.perf_counter, lambda start, end: end - start)

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event

    return ActivityClock(mark, lambda start, end: start.elapsed_time(end) / 1000 if end.query() else None)


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """The numbers of parameters, grouped by how many operations they require per token."""

    base: int
    """The number of parameters in the frozen matrices of the layers."""
    head: int
    """The number of parameters in the output layer."""
    lora: int


def parameter_counts(adapter: Adapter) -> ParameterCounts:
    """Count the parameters by which the hidden states of tokens are multiplied.

    The experts of a mixture-of-experts layer are not counted if one tensor holds all of them.
    """
    model = adapter.model
    head = model.get_output_embeddings().weight
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    base = sum(
        p.numel()
        for p in model.parameters()
        if p.ndim == 2 and not p.requires_grad and p is not head and id(p) not in tables
    )
    return ParameterCounts(base=base, head=head.numel(), lora=adapter.flat.numel())


def training_flops(weights: ParameterCounts, *, computed: int, loss_tokens: int) -> float:
    """Return the number of floating-point operations in the matrix products of training.

    As in PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B), a token takes 2 operations per parameter in the
    forward pass and 4 in the backward pass: 2 for the gradient of the input and 2 for the gradient of the parameter. A
    frozen parameter has no gradient. The output layer runs only for tokens that predict an answer token. The products
    inside attention (``12 · layers · width · length`` per token in PaLM) and recomputation by gradient checkpointing
    are not counted. The last layer is counted like any other layer.

    Args:
        weights: The numbers of parameters.
        computed: The number of tokens that the layers computed.
        loss_tokens: The number of tokens with a loss.
    """
    return 4.0 * (weights.base * computed + weights.head * loss_tokens) + 6.0 * weights.lora * computed


def peak_flops(name: str, dtype: torch.dtype) -> float | None:
    """Return the peak FLOP/s, in dense products of ``dtype``, of the GPU that CUDA calls ``name``.

    Return None if no peak is known for the GPU and ``dtype``, or if ``name`` stands for a partition of a GPU (MIG).
    """
    if "MIG" in name.split():
        return None
    peaks_by_dtype = next((peaks for word, peaks in _PEAKS.items() if re.search(rf"(?<!\w){word}(?!\w)", name)), {})
    return peaks_by_dtype[dtype] * _TERA if dtype in peaks_by_dtype else None


def device_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the peak FLOP/s of ``device`` (see ``peak_flops``), or None on a CPU."""
    return peak_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
