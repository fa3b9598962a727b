"""Fused LoRA layers and SwiGLU MLPs against PEFT's and the models' own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from promptintern.engine.fused.lora_fp32 import _LoraFp32, fused_lora
from promptintern.engine.fused.swiglu import fused_swiglu

from tests.tiny import tiny_model
from tests.unit.engine.adapters import with_random_lora

_ROWS = 1500
"""More than one block."""


@contextmanager
def both(model: Any) -> Iterator[int]:
    with fused_lora(model), fused_swiglu(model) as count:
        yield count


def gradients(call: Callable[[torch.Tensor], torch.Tensor], model: Any) -> list[torch.Tensor]:
    """Return the output of ``call`` for random rows, and the gradients of these rows and of LoRA's matrices."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn((1, _ROWS, model.config.hidden_size), generator=draw, requires_grad=True)
    y = call(x)
    lora = [each for each in model.parameters() if each.requires_grad]
    grads = torch.autograd.grad(y, [x, *lora], torch.randn(y.shape, generator=draw), allow_unused=True)
    return [y.detach(), *(grad for grad in grads if grad is not None)]


def assert_same(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()
        assert other.norm() > 0


@pytest.mark.parametrize("fuse", [fused_lora, fused_swiglu, both])
def test_a_fused_mlp_equals_the_models(fuse: Callable[[Any], AbstractContextManager[int]]) -> None:
    model = with_random_lora(tiny_model("llama")).model
    mlp = model.get_base_model().model.layers[0].mlp
    expected = gradients(mlp, model)
    with fuse(model) as count:
        assert count
        assert_same(gradients(mlp, model), expected)
    assert_same(gradients(mlp, model), expected)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])  # without and with biases
def test_projections_with_the_same_input_equal_the_models(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_random_lora(tiny_model(architecture)).model
    attention = model.get_base_model().model.layers[0].self_attn
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)

    def call(x: torch.Tensor) -> torch.Tensor:
        hidden = x * 2
        return torch.cat([layer(hidden) for layer in layers], dim=-1)

    expected = gradients(call, model)
    group_sizes: list[int] = []
    first = _LoraFp32.apply

    def counted(x: torch.Tensor, *more: Any) -> Any:
        group_sizes.append(len(more[0]))
        return first(x, *more)

    monkeypatch.setattr(_LoraFp32, "apply", counted)
    with fused_lora(model):
        assert_same(gradients(call, model), expected)
    assert group_sizes == [3], "one pass over the input"


def test_projections_may_be_called_with_other_inputs_and_in_any_order() -> None:
    model = with_random_lora(tiny_model("llama")).model
    attention = model.get_base_model().model.layers[0].self_attn

    def call(x: torch.Tensor) -> torch.Tensor:
        twice, thrice = x * 2, x * 3
        parts = [attention.v_proj(twice), attention.q_proj(thrice), attention.k_proj(twice), attention.q_proj(twice)]
        return torch.cat([*parts, attention.q_proj(twice)], dim=-1)

    expected = gradients(call, model)
    with fused_lora(model):
        assert_same(gradients(call, model), expected)


def test_another_activation_is_left_as_it_is() -> None:
    model = with_random_lora(tiny_model("llama")).model
    first, second = (layer.mlp for layer in model.get_base_model().model.layers)
    second.act_fn = torch.nn.GELU()
    with fused_swiglu(model) as count:
        assert count == 1
        assert "forward" in vars(first)
        assert "forward" not in vars(second)
    assert "forward" not in vars(first)


def test_an_mlp_that_clamps_large_values_is_left_as_it_is() -> None:
    model = with_random_lora(tiny_model("llama")).model
    mlp = model.get_base_model().model.layers[1].mlp
    whole = type(mlp).forward

    class Clamped(type(mlp)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return whole(self, x.clamp(-20, 20))

    mlp.__class__ = Clamped
    with fused_swiglu(model) as count:
        assert count == 1


@pytest.mark.parametrize("architecture", ["gpt_neox", "mixtral"])
def test_a_model_without_swiglu_is_left_as_it_is(architecture: str) -> None:
    with fused_swiglu(with_random_lora(tiny_model(architecture)).model) as count:
        assert count == 0
