"""Gated MLPs with LoRA on their three layers as one function, where the base is in float32.

``y = (silu(x G') * (x U')) D'`` (Shazeer 2020), with G, U and D as in ``lora_fp32``. As single operations it keeps five
tensors of the inner size for its backward pass and goes over them about ten times; here it keeps ``x G'`` and ``x U'``
and computes the others again, a few rows at a time, while they are in the processor's cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from promptintern.engine.fused.lora_fp32 import LowRank, blocks
from promptintern.engine.fused.lora_layers import dtype_of, flattened, is_plain, matrices_of, unflattened
from promptintern.engine.fused.patching import forwards

Tensor = torch.Tensor
_PARTS = ("gate_proj", "up_proj", "down_proj")
_TOLERANCE = 1e-5
"""Relative, of each row of an MLP's output on random numbers."""
_SCALES = (1.0, 30.0, 1000.0)
"""Of those rows: some models cut off what is large."""


@contextmanager
def gated_at_once(model: Any) -> Iterator[int]:
    """Inside, the gated MLPs of PEFT's ``model`` compute as above; gives their number."""
    found = {module: partial(_forward, module) for module in model.modules() if _is_gated(module)}
    with forwards(found):
        yield len(found)


def _is_gated(module: nn.Module) -> bool:
    """Whether it is one with SiLU and no biases, as its output on random numbers says."""
    layers: list[Any] = [getattr(module, name, None) for name in _PARTS]
    if not all(is_plain(layer) and layer.get_base_layer().bias is None for layer in layers):
        return False
    if any(dtype_of(layer) is not torch.float32 for layer in layers):
        return False
    gate = matrices_of(layers[0])
    x = torch.randn((1, len(_SCALES), gate.weight.shape[1]), generator=torch.Generator().manual_seed(0))
    x = (x * torch.tensor(_SCALES)[:, None]).to(gate.weight)
    with torch.no_grad():
        try:
            expected = module(x)
        except TypeError:  # it takes more than that
            return False
        found = _forward(module, x)
    return bool(((expected - found).norm(dim=-1) <= _TOLERANCE * expected.norm(dim=-1)).all())


def _forward(module: Any, x: Tensor) -> Tensor:
    scales, flat = flattened([matrices_of(getattr(module, name)) for name in _PARTS])
    y: Tensor = _Gated.apply(x, scales, *flat)
    return y


class _Gated(torch.autograd.Function):
    """``x`` ``[..., D]`` to ``[..., D]``; ``flat`` is W, A and B of gate, up and down."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: list[float], *flat: Tensor) -> Tensor:
        gate, up, down = unflattened(flat, scales)
        rows = x.reshape(-1, x.shape[-1])
        g, u = rows @ gate.sum.t(), rows @ up.sum.t()
        y = torch.empty_like(rows)
        out = down.sum.t()
        for block in blocks(rows):
            torch.mm(F.silu(g[block]).mul_(u[block]), out, out=y[block])
        ctx.save_for_backward(rows, g, u, *flat)
        ctx.scales = scales
        return y.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        rows, g, u, *flat = ctx.saved_tensors
        gate, up, down = unflattened(flat, ctx.scales)
        gate_sum, up_sum, down_sum = gate.sum, up.sum, down.sum
        given = grad.reshape(-1, grad.shape[-1])
        dx = torch.empty_like(rows)
        inner, outer = LowRank([gate, up]), LowRank([down])
        for block in blocks(rows):
            gs, us, dy = g[block], u[block], given[block]
            sigma = torch.sigmoid(gs)
            s = gs * sigma
            outer.add(s * us, [dy])
            dh = dy @ down_sum
            du = dh * s
            # silu'(z) = sigma(z) + silu(z) (1 - sigma(z))
            dg = s.addcmul_(s, sigma, value=-1).add_(sigma).mul_(dh.mul_(us))
            torch.mm(dg, gate_sum, out=dx[block]).addmm_(du, up_sum)
            inner.add(rows[block], [dg, du])
        pairs = (*inner.gradients(), *outer.gradients())
        return dx.view_as(grad), None, *(each for pair in pairs for each in (None, *pair))
