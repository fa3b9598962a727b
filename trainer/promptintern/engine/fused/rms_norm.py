"""RMS norms in few passes over memory: PyTorch's kernel on CUDA; elsewhere, a custom function for a float32 base.

An RMS norm is ``y = x w / sqrt(mean(x^2) + eps)`` (Zhang & Sennrich 2019, arXiv 1910.07467). If it is computed by
separate operations, its backward pass makes about ten passes over the hidden states. With
``r = 1 / sqrt(mean(x^2) + eps)`` and ``h = w dy``, the gradient is

    dx = r h - x r^3 mean(h x)

The weight is frozen and has no gradient.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from promptintern.engine.fused.patching import patched_forwards

Tensor = torch.Tensor
_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""The allowed error of a norm's output on random numbers, relative to the largest output: a few rounding steps of the
dtype."""


@contextmanager
def fused_rms_norms(model: nn.Module) -> Iterator[int]:
    """Fuse the plain RMS norms of ``model`` inside the ``with`` block. Yield the number of these norms."""
    norms = {m: partial(_forward, m, eps) for m in model.modules() if (eps := _eps_of(m)) is not None}
    with patched_forwards(norms):
        yield len(norms)


def _eps_of(module: nn.Module) -> float | None:
    """Return the constant ``eps`` of a plain frozen RMS norm, or None for any other module.

    Some norms scale by something other than their weight, so the output of the module is checked on random numbers.
    """
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or not isinstance(weight, Tensor) or not isinstance(eps, float):
        return None
    if weight.requires_grad or weight.dim() != 1 or weight.dtype not in _TOLERANCES:
        return None
    if weight.dtype is not torch.float32 and not weight.is_cuda:
        return None
    x = torch.randn((3, len(weight)), generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        try:
            expected = module(x)
        except TypeError:  # the module takes more arguments
            return None
        y = _rms_norm(x, weight, eps)
    tolerance = _TOLERANCES[weight.dtype]
    return eps if bool((expected - y).abs().max() <= tolerance * expected.abs().max()) else None


def _forward(module: Any, eps: float, x: Tensor) -> Tensor:
    if x.dtype is not module.weight.dtype:
        return type(module).forward(module, x)  # type: ignore[no-any-return]
    return _rms_norm(x, module.weight, eps)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if x.is_cuda:
        return F.rms_norm(x, weight.shape, weight, eps)
    y: Tensor = _RmsNorm.apply(x, weight, eps)
    return y


class _RmsNorm(torch.autograd.Function):
    """The autograd function that maps ``x`` ``[..., D]`` and ``weight`` ``[D]`` to the norm ``y`` ``[..., D]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = x.shape[-1]
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(size).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        y: Tensor = (x * r).mul_(weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, r = ctx.saved_tensors
        h = grad * weight
        mean = torch.linalg.vecdot(h, x).unsqueeze(-1).div_(x.shape[-1])
        return h.mul_(r).addcmul_(x, mean.mul_(r.pow(3)), value=-1), None, None
