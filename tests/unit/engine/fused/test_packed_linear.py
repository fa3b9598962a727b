"""Packed linear layers compute the same products, with LoRA merged where it is on, and only if there is memory."""

from typing import Any

import pytest
import torch
from promptintern.engine.fused import packed_linear
from promptintern.engine.fused.packed_linear import packed_linears
from torch import nn

from tests.tiny import ARCHITECTURES, tiny_model

IDS = torch.tensor([[7, 30, 12, 55, 9]])


@pytest.fixture(autouse=True)
def much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "available_bytes", lambda: 2**40)


def with_lora(model: Any, **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **options)
    return get_peft_model(model, config).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return result


def linear_layers(model: nn.Module) -> int:
    return sum(type(module) is nn.Linear for module in model.modules())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_the_same(architecture: str) -> None:
    model = tiny_model(architecture).eval()
    expected = logits(model)
    with packed_linears(model) as count:
        assert count == linear_layers(model) > 0
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"lora_dropout": 0.1}, {"use_rslora": True}])
def test_lora_counts_only_while_it_is_on(options: dict[str, Any]) -> None:
    model = with_lora(tiny_model("llama"), **options)
    on = logits(model)
    with packed_linears(model) as count:
        assert count > 0
        torch.testing.assert_close(logits(model), on, rtol=1e-3, atol=1e-3)
    with model.disable_adapter():
        off = logits(model)
        with packed_linears(model):
            torch.testing.assert_close(logits(model), off, rtol=1e-4, atol=1e-4)
    assert (on - off).abs().max() > 0.1


def test_a_plain_lora_layer_is_one_product() -> None:
    model = with_lora(tiny_model("llama"))
    with packed_linears(model) as count:
        assert count == 2 * 7 + 1  # the projections of two layers, and the output layer


def test_merged_adapters_count_once() -> None:
    model = with_lora(tiny_model("llama"))
    expected = logits(model)
    model.merge_adapter()
    with packed_linears(model):
        torch.testing.assert_close(logits(model), expected, rtol=1e-3, atol=1e-3)


def test_biases_are_added() -> None:
    model = tiny_model("qwen2").eval()
    with torch.no_grad():
        for module in model.modules():
            if type(module) is nn.Linear and module.bias is not None:
                module.bias.add_(torch.arange(len(module.bias)) / 10)
    expected = logits(model)
    with packed_linears(model):
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("available", [None, 100_000])
def test_without_memory_nothing_is_packed(available: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "available_bytes", lambda: available)
    with packed_linears(tiny_model("llama")) as count:
        assert count == 0


def test_other_data_types_are_left_alone() -> None:
    model = tiny_model("llama").to(torch.bfloat16).eval()
    expected = logits(model)
    with packed_linears(model) as count:
        assert count == 0
        assert torch.equal(logits(model), expected)


def test_a_processor_without_kernels_leaves_the_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(packed_linear, "_packed", refuse)
    model = tiny_model("llama").eval()
    expected = logits(model)
    with packed_linears(model) as count:
        assert count == 0
        assert torch.equal(logits(model), expected)


def test_workers_share_the_memory_of_their_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    size = sum(4 * module.weight.numel() for module in model.modules() if type(module) is nn.Linear)
    monkeypatch.setattr(packed_linear, "available_bytes", lambda: 8 * size)
    for workers, packs in ((2, True), (3, False)):
        monkeypatch.setattr("promptintern.engine.distributed.world_size", lambda workers=workers: workers)
        with packed_linears(model) as count:
            assert (count > 0) == packs
