"""LoRA layers in 16 bits: their error is about that of PEFT's own."""

from typing import Any

import pytest
import torch
from promptintern.engine.fused.lora_fp32 import fused_lora

from tests.tiny import tiny_model
from tests.unit.engine.adapters import with_random_lora

_ROWS = 200


def outputs_of(model: Any, layer: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the layer's output for random rows, and the gradients of these rows and of the layer's A and B."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn((1, _ROWS, layer.in_features), generator=draw).bfloat16().to(dtype).requires_grad_()
    y = layer(x)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    slope = torch.randn(y.shape, generator=draw).bfloat16().to(dtype)
    dx, da, db = torch.autograd.grad(y, [x, a, b], slope)
    assert da.dtype is db.dtype is torch.float32
    return {"y": y.detach(), "dx": dx, "da": da, "db": db}


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])  # without and with biases
@pytest.mark.parametrize("name", ["self_attn.q_proj", "mlp.down_proj"])
def test_rounding_is_no_more_than_pefts(architecture: str, name: str) -> None:
    results: dict[str, dict[str, torch.Tensor]] = {}
    for way, dtype in (("exact", torch.float32), ("peft", torch.bfloat16), ("ours", torch.bfloat16)):
        adapter = with_random_lora(tiny_model(architecture).bfloat16().to(dtype))
        layer = adapter.model.get_base_model().model.layers[0].get_submodule(name)
        if way == "ours":
            with fused_lora(adapter.model) as count:
                assert count
                results[way] = outputs_of(adapter.model, layer, dtype)
        else:
            results[way] = outputs_of(adapter.model, layer, dtype)
    for tensor, exact in results["exact"].items():
        off = {way: ((results[way][tensor].float() - exact).norm() / exact.norm()).item() for way in ("peft", "ours")}
        assert 0 < off["ours"] <= max(1.5 * off["peft"], 2**-8), tensor
