"""What a training's time goes to, and how much arithmetic it is beside what the device can do."""

import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from promptintern.engine.adapter import Adapter

Part = Literal["data", "forward", "backward", "exchange", "optimizer", "save"]
"""What a step's time goes to, as its first worker sees it, and of this the first lane: ``exchange`` of gradients, with
several workers only, holds the waiting for the others; clipping is in ``optimizer``; ``save`` is what reports and
checkpoints hold up the loop."""

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
"""TFLOP/s by a word of the GPU's name, the first that fits, from NVIDIA's data sheets: dense bfloat16 on tensor cores,
and float32 without them (PyTorch does not round it to TF32 by itself)."""


class Clock:
    """Laps that follow each other without a gap, each with what it was spent on.

    Args:
        mark: Notes the present moment.
        between: Seconds from one mark to a later one; None as long as the device has not come to the later one.
    """

    def __init__(self, mark: Callable[[], Any], between: Callable[[Any, Any], float | None]) -> None:
        self._mark = mark
        self._between = between
        self._last = mark()
        self._open: deque[tuple[Part, Any, Any]] = deque()

    def lap(self, part: Part) -> None:
        """The time since the lap before was spent on ``part``."""
        now = self._mark()
        self._open.append((part, self._last, now))
        self._last = now

    def take(self) -> dict[Part, float]:
        """Seconds by part of the laps since the last call. Waits for nothing: a lap that the device is still at comes
        with a later call."""
        spent: dict[Part, float] = {}
        while self._open:
            part, start, end = self._open[0]
            seconds = self._between(start, end)
            if seconds is None:
                break
            self._open.popleft()
            spent[part] = spent.get(part, 0.0) + seconds
        return spent


def clock_of(device: torch.device) -> Clock:
    """A running clock. On CUDA its marks are events in the stream, so a lap is the GPU's time: with its waiting for the
    host, without what the host does meanwhile."""
    if device.type != "cuda":
        return Clock(time.perf_counter, lambda start, end: end - start)

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event

    return Clock(mark, lambda start, end: start.elapsed_time(end) / 1000 if end.query() else None)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Numbers of parameters by how often a step computes with them."""

    base: int
    """Of the layers' frozen matrices."""
    head: int
    """Of the output layer."""
    lora: int


def weights_of(adapter: Adapter) -> Weights:
    """The parameters that tokens are multiplied with. A mixture's experts, one tensor for all of them, are left out."""
    model = adapter.model
    head = model.get_output_embeddings().weight
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    base = sum(
        p.numel()
        for p in model.parameters()
        if p.ndim == 2 and not p.requires_grad and p is not head and id(p) not in tables
    )
    return Weights(base=base, head=head.numel(), lora=adapter.flat.numel())


def training_flops(weights: Weights, *, computed: int, loss_tokens: int) -> float:
    """Floating-point operations of the matrix products of training.

    As in PaLM (Chowdhery et al., 2022, appendix B) a token takes 2 forwards and 4 backwards for every parameter: half
    of the 4 for the gradient of the input, half for the parameter's own, which a frozen one does not have. The output
    layer runs for tokens that predict an answer. Attention's own products (``12 · layers · width · length`` a token in
    PaLM) are left out, and so is what gradient checkpointing computes again; the last layer is taken as any other.

    Args:
        computed: Tokens that went through the layers.
        loss_tokens: Tokens with a loss.
    """
    return 4.0 * (weights.base * computed + weights.head * loss_tokens) + 6.0 * weights.lora * computed


def peak_flops(name: str, dtype: torch.dtype) -> float | None:
    """FLOP/s of the GPU that CUDA calls ``name``, in dense products of ``dtype``; None if it is not known, or only a
    part of a GPU."""
    if "MIG" in name.split():
        return None
    known = next((peaks for word, peaks in _PEAKS.items() if re.search(rf"(?<!\w){word}(?!\w)", name)), {})
    return known[dtype] * _TERA if dtype in known else None


def device_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """``peak_flops`` of ``device``; None on a CPU."""
    return peak_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
