"""SwiGLU MLPs with LoRA on their three layers, computed as one function if the base is in float32.

The MLP is ``y = (silu(x G') * (x U')) D'`` (Shazeer 2020, arXiv 2002.05202), with LoRA merged into the gate, up and
down matrices G, U and D as in ``lora_fp32``. If it is computed by separate operations, the MLP keeps five tensors of
the inner size for its backward pass and makes about ten passes over them. Here it keeps only ``x G'`` and ``x U'`` and
recomputes the other tensors block by block, while the rows of a block are in the processor's cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from promptintern.engine.fused.lora_fp32 import LoraGradients, row_blocks
from promptintern.engine.fused.lora_layers import (
    base_dtype,
    flatten_weights,
    is_plain,
    lora_weights_of,
    unflatten_weights,
)
from promptintern.engine.fused.patching import patched_forwards

Tensor = torch.Tensor
_LAYERS = ("gate_proj", "up_proj", "down_proj")
_TOLERANCE = 1e-5
"""The allowed relative error of each row of an MLP's output on random numbers."""
_PROBE_SCALES = (1.0, 30.0, 1000.0)
"""The scales of the random rows on which an MLP is checked. Large scales are included because some models clamp large
values."""


@contextmanager
def fused_swiglu(model: Any) -> Iterator[int]:
    """Fuse the SwiGLU MLPs of the PEFT model ``model`` inside the ``with`` block. Yield the number of these MLPs."""
    forwards = {module: partial(_forward, module) for module in model.modules() if _is_swiglu(module)}
    with patched_forwards(forwards):
        yield len(forwards)


def _is_swiglu(module: nn.Module) -> bool:
    """Return whether ``module`` is a gated MLP with SiLU and no biases.

    The output of the module is checked on random numbers.
    """
    layers: list[Any] = [getattr(module, name, None) for name in _LAYERS]
    if not all(is_plain(layer) and layer.get_base_layer().bias is None for layer in layers):
        return False
    if any(base_dtype(layer) is not torch.float32 for layer in layers):
        return False
    gate = lora_weights_of(layers[0])
    x = torch.randn((1, len(_PROBE_SCALES), gate.weight.shape[1]), generator=torch.Generator().manual_seed(0))
    x = (x * torch.tensor(_PROBE_SCALES)[:, None]).to(gate.weight)
    with torch.no_grad():
        try:
            expected = module(x)
        except TypeError:  # the module takes more arguments
            return False
        y = _forward(module, x)
    return bool(((expected - y).norm(dim=-1) <= _TOLERANCE * expected.norm(dim=-1)).all())


def _forward(module: Any, x: Tensor) -> Tensor:
    scales, flat = flatten_weights([lora_weights_of(getattr(module, name)) for name in _LAYERS])
    y: Tensor = _Swiglu.apply(x, scales, *flat)
    return y


class _Swiglu(torch.autograd.Function):
    """The autograd function that maps the input ``x`` ``[..., D]`` of an MLP to its output ``[..., D]``.

    The argument ``flat`` holds W, A and B of the gate, up and down layers.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: list[float], *flat: Tensor) -> Tensor:
        gate, up, down = unflatten_weights(flat, scales)
        rows = x.reshape(-1, x.shape[-1])
        g, u = rows @ gate.merged.t(), rows @ up.merged.t()
        y = torch.empty_like(rows)
        out = down.merged.t()
        for block in row_blocks(rows):
            torch.mm(F.silu(g[block]).mul_(u[block]), out, out=y[block])
        ctx.save_for_backward(rows, g, u, *flat)
        ctx.scales = scales
        return y.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        rows, g, u, *flat = ctx.saved_tensors
        gate, up, down = unflatten_weights(flat, ctx.scales)
        gate_merged, up_merged, down_merged = gate.merged, up.merged, down.merged
        dys = grad.reshape(-1, grad.shape[-1])
        dx = torch.empty_like(rows)
        inner, outer = LoraGradients([gate, up]), LoraGradients([down])
        for block in row_blocks(rows):
            gs, us, dy = g[block], u[block], dys[block]
            sigma = torch.sigmoid(gs)
            s = gs * sigma
            outer.add(s * us, [dy])
            dh = dy @ down_merged
            du = dh * s
            # silu'(z) = sigma(z) + silu(z) (1 - sigma(z))
            dg = s.addcmul_(s, sigma, value=-1).add_(sigma).mul_(dh.mul_(us))
            torch.mm(dg, gate_merged, out=dx[block]).addmm_(du, up_merged)
            inner.add(rows[block], [dg, du])
        pairs = (*inner.gradients(), *outer.gradients())
        return dx.view_as(grad), None, *(each for pair in pairs for each in (None, *pair))
