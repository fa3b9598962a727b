"""The time of each phase of training, and its arithmetic in relation to the peak of the device."""

import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from promptintern.engine.adapter import Adapter

Phase = Literal["data", "forward", "backward", "exchange", "optimizer", "save"]
"""A part of a step's time, as measured by the first lane of the first worker.

``exchange`` is the all-reduce of gradients, which happens with several workers only and includes the wait for the other
workers. ``optimizer`` includes clipping. ``save`` is the time that reports and checkpoints hold up the loop.
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
"""TFLOP/s by words in the GPU's name, from NVIDIA's data sheets; the first match counts. The figures are for dense
products: bfloat16 on tensor cores, and float32 without them (PyTorch does not round to TF32 by default)."""


class PhaseClock:
    """A clock that assigns all time, without gaps, to phases.

    Args:
        mark: Function that returns a mark of the present moment.
        between: Function that returns the seconds from one mark to a later one, or None while the device has not
            reached the later one.
    """

    def __init__(self, mark: Callable[[], Any], between: Callable[[Any, Any], float | None]) -> None:
        self._mark = mark
        self._between = between
        self._last = mark()
        self._open: deque[tuple[Phase, Any, Any]] = deque()

    def record(self, phase: Phase) -> None:
        """Assign the time since the previous record to ``phase``."""
        now = self._mark()
        self._open.append((phase, self._last, now))
        self._last = now

    def collect(self) -> dict[Phase, float]:
        """Return the seconds by phase that were recorded since the last call.

        This does not wait for the device: a record that the device has not reached yet is returned by a later call.
        """
        seconds_by_phase: dict[Phase, float] = {}
        while self._open:
            phase, start, end = self._open[0]
            seconds = self._between(start, end)
            if seconds is None:
                break
            self._open.popleft()
            seconds_by_phase[phase] = seconds_by_phase.get(phase, 0.0) + seconds
        return seconds_by_phase


def phase_clock(device: torch.device) -> PhaseClock:
    """Return a running clock.

    On CUDA its marks are events in the stream. So it measures the GPU's time, which includes the GPU's waiting for the
    host and excludes what the host does at the same time.
    """
    if device.type != "cuda":
        return PhaseClock(time.perf_counter, lambda start, end: end - start)

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event

    return PhaseClock(mark, lambda start, end: start.elapsed_time(end) / 1000 if end.query() else None)


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Numbers of parameters, by the operations that a token takes for them."""

    base: int
    """Parameters of the layers' frozen matrices."""
    head: int
    """Parameters of the output layer."""
    lora: int


def parameter_counts(adapter: Adapter) -> ParameterCounts:
    """Count the parameters that tokens are multiplied with.

    The experts of a mixture, which are one tensor for all of them, are left out.
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
    """Return the floating-point operations of the matrix products of training.

    As in PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B), a token takes 2 operations for every parameter in
    the forward pass and 4 in the backward pass: half of the 4 for the gradient of the input, and half for the gradient
    of the parameter, which a frozen parameter does not have. The output layer runs only for tokens that predict an
    answer token. The products inside attention (``12 · layers · width · length`` per token in PaLM) are left out, and
    so is recomputation by gradient checkpointing; the last layer is counted like any other.

    Args:
        weights: Numbers of parameters.
        computed: Number of tokens that went through the layers.
        loss_tokens: Number of tokens with a loss.
    """
    return 4.0 * (weights.base * computed + weights.head * loss_tokens) + 6.0 * weights.lora * computed


def peak_flops(name: str, dtype: torch.dtype) -> float | None:
    """Return the peak FLOP/s of the GPU that CUDA calls ``name``, in dense products of ``dtype``.

    None if the GPU is not known, or is only a partition of a GPU (MIG).
    """
    if "MIG" in name.split():
        return None
    peaks_by_dtype = next((peaks for word, peaks in _PEAKS.items() if re.search(rf"(?<!\w){word}(?!\w)", name)), {})
    return peaks_by_dtype[dtype] * _TERA if dtype in peaks_by_dtype else None


def device_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return ``peak_flops`` of ``device``; None on a CPU."""
    return peak_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
