"""LoRA layers in one product, and gated MLPs as one function, against PEFT's and the models' own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from promptintern.engine.fused.lora_fp32 import _Merged, merged
from promptintern.engine.fused.swiglu import gated_at_once

from tests.tiny import tiny_model
from tests.unit.engine.adapters import with_random_lora

_ROWS = 1500
"""More than are computed at a time."""


@contextmanager
def both(model: Any) -> Iterator[int]:
    with merged(model), gated_at_once(model) as count:
        yield count


def gradients(call: Callable[[torch.Tensor], torch.Tensor], model: Any) -> list[torch.Tensor]:
    """What ``call`` gives for random rows, and the gradients of these rows and of LoRA's matrices."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn((1, _ROWS, model.config.hidden_size), generator=draw, requires_grad=True)
    y = call(x)
    lora = [each for each in model.parameters() if each.requires_grad]
    found = torch.autograd.grad(y, [x, *lora], torch.randn(y.shape, generator=draw), allow_unused=True)
    return [y.detach(), *(each for each in found if each is not None)]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()
        assert other.norm() > 0


@pytest.mark.parametrize("way", [merged, gated_at_once, both])
def test_a_gated_mlp_is_the_models(way: Callable[[Any], AbstractContextManager[int]]) -> None:
    model = with_random_lora(tiny_model("llama")).model
    mlp = model.get_base_model().model.layers[0].mlp
    expected = gradients(mlp, model)
    with way(model) as count:
        assert count
        assert_same(gradients(mlp, model), expected)
    assert_same(gradients(mlp, model), expected)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])  # without and with biases
def test_projections_of_one_input_are_the_models(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_random_lora(tiny_model(architecture)).model
    attention = model.get_base_model().model.layers[0].self_attn
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)

    def call(x: torch.Tensor) -> torch.Tensor:
        hidden = x * 2
        return torch.cat([layer(hidden) for layer in layers], dim=-1)

    expected = gradients(call, model)
    together: list[int] = []
    first = _Merged.apply

    def counted(x: torch.Tensor, *more: Any) -> Any:
        together.append(len(more[0]))
        return first(x, *more)

    monkeypatch.setattr(_Merged, "apply", counted)
    with merged(model):
        assert_same(gradients(call, model), expected)
    assert together == [3], "one pass over the input"


def test_projections_may_be_called_with_other_inputs_and_in_any_order() -> None:
    model = with_random_lora(tiny_model("llama")).model
    attention = model.get_base_model().model.layers[0].self_attn

    def call(x: torch.Tensor) -> torch.Tensor:
        twice, thrice = x * 2, x * 3
        parts = [attention.v_proj(twice), attention.q_proj(thrice), attention.k_proj(twice), attention.q_proj(twice)]
        return torch.cat([*parts, attention.q_proj(twice)], dim=-1)

    expected = gradients(call, model)
    with merged(model):
        assert_same(gradients(call, model), expected)


def test_another_activation_is_left_as_it_is() -> None:
    model = with_random_lora(tiny_model("llama")).model
    first, second = (layer.mlp for layer in model.get_base_model().model.layers)
    second.act_fn = torch.nn.GELU()
    with gated_at_once(model) as count:
        assert count == 1
        assert "forward" in vars(first)
        assert "forward" not in vars(second)
    assert "forward" not in vars(first)


def test_one_that_cuts_off_what_is_large_is_left_as_it_is() -> None:
    model = with_random_lora(tiny_model("llama")).model
    mlp = model.get_base_model().model.layers[1].mlp
    whole = type(mlp).forward

    class Clamped(type(mlp)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return whole(self, x.clamp(-20, 20))

    mlp.__class__ = Clamped
    with gated_at_once(model) as count:
        assert count == 1


@pytest.mark.parametrize("architecture", ["gpt_neox", "mixtral"])
def test_where_there_is_none_nothing_is_changed(architecture: str) -> None:
    with gated_at_once(with_random_lora(tiny_model(architecture)).model) as count:
        assert count == 0
