"""Fused RMS norms against those of the models."""

import copy

import pytest
import torch
from promptintern.engine.fused.rms_norm import fused_rms_norms

from tests.tiny import ARCHITECTURES, tiny_model


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mixtral"])
def test_outputs_and_gradients_are_the_models(architecture: str) -> None:
    model = tiny_model(architecture)
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    assert norms
    norm = copy.deepcopy(norms[0])
    norm.weight.copy_(torch.linspace(0.5, 1.5, len(norm.weight)))
    x = torch.randn(5, 7, len(norm.weight), requires_grad=True)
    slope = torch.randn_like(x)
    expected = norm(x)
    (expected_grad,) = torch.autograd.grad(expected, x, slope)
    with fused_rms_norms(norm) as count:
        assert count == 1
        y = norm(x)
        (y_grad,) = torch.autograd.grad(y, x, slope)
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(y_grad, expected_grad, rtol=1e-5, atol=1e-6)


def test_all_norms_of_a_model_and_none_afterwards() -> None:
    model = tiny_model("llama")
    layers = model.config.num_hidden_layers
    with fused_rms_norms(model) as count:
        assert count == 2 * layers + 1
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_whatever_the_norm_the_model_computes_the_same(architecture: str) -> None:
    model = tiny_model(architecture)
    for parameter in model.parameters():  # ones would hide what a norm does with its weight
        if parameter.dim() == 1:
            parameter.uniform_(0.5, 1.5)
    ids = torch.arange(3, 15)[None]
    expected = model(input_ids=ids, use_cache=False).logits
    with fused_rms_norms(model):
        logits = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_norm_that_adds_one_to_its_weight_is_left_as_it_is() -> None:
    class OneMoreRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(8), requires_grad=False)
            self.eps = 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1 + self.weight)

    with fused_rms_norms(OneMoreRMSNorm()) as count:
        assert count == 0


@pytest.mark.parametrize("change", ["trains", "bfloat16"])
def test_trained_norms_and_those_in_bfloat16_are_left_as_they_are(change: str) -> None:
    model = tiny_model("llama")
    if change == "trains":
        model.requires_grad_(requires_grad=True)
    else:
        model.to(torch.bfloat16)
    with fused_rms_norms(model) as count:
        assert count == 0
