"""Every layout computes what one prompt a row does: the loss and the gradient of every LoRA parameter."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.engine.attention import window_of
from promptintern.engine.forward import pack_loss, pack_tensors
from promptintern.engine.layout import Layout, cascade_fault, choose_layout, prepared
from promptintern.engine.lora import Adapter, attach_lora
from promptintern.engine.tree import Prefixes
from promptintern.prompt.encode import Encoded
from promptintern_api.training import Lora

from tests.tiny import ARCHITECTURES, VOCABULARY, tiny_config, tiny_model
from tests.unit.engine.rows import random_family, random_rows

CPU = torch.device("cpu")
FULL_ATTENTION = [name for name in ARCHITECTURES if name != "mistral"]
"""Tiny Mistral has a sliding window of 6 tokens."""


def with_random_lora(model: Any, **lora: Any) -> Adapter:
    adapter = attach_lora(model, Lora(r=4, alpha=8, **lora), seed=0)
    # B starts at zero, which would leave A without gradients.
    noise = torch.randn(adapter.flat.shape, generator=torch.Generator().manual_seed(1))
    adapter.load_flat(noise * 0.05)
    adapter.model.train()
    return adapter


def gradient(adapter: Adapter, packs: list[list[Encoded]], layout: Layout) -> tuple[float, torch.Tensor]:
    adapter.grad.zero_()
    tokens = sum(len(row.answer_ids) for pack in packs for row in pack)
    total = 0.0
    with prepared(adapter.model, layout):
        for rows in packs:
            tensors = pack_tensors(rows, device=CPU, cascade=layout.cascades, shared=layout is Layout.SHARED)
            loss = pack_loss(adapter.model, tensors) / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
    return total, adapter.grad.clone()


def in_order(rows: list[Encoded]) -> list[Encoded]:
    return [rows[i] for i in Prefixes([row.prompt_ids for row in rows]).sort(range(len(rows)))]


def assert_same(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor], rel: float = 1e-5) -> None:
    assert abs(found[0] - expected[0]) <= rel * abs(expected[0])
    assert (found[1] - expected[1]).abs().max() <= rel * expected[1].abs().max()
    assert expected[1].abs().max() > 1e-4  # there is something to compare


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
@pytest.mark.parametrize("layout", [Layout.CASCADE, Layout.SHARED])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradients_are_those_of_rows_alone(architecture: str, layout: Layout, seed: int) -> None:
    adapter = with_random_lora(tiny_model(architecture))
    rows = in_order(random_family(seed, 9))
    alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    assert_same(gradient(adapter, [rows], layout), alone)
    assert_same(gradient(adapter, [rows[:4], rows[4:]], layout), alone)


@settings(max_examples=30)
@given(
    st.integers(0, 10**6),
    st.integers(1, 14),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["default", "linear", "dynamic", "yarn"]),
    st.sampled_from([1, 2, 4]),
)
def test_any_tree(seed: int, count: int, template: int, longest: int, rope: str, groups: int) -> None:
    config = tiny_config("llama")
    config.num_key_value_heads = 4 // groups
    if rope != "default":
        config.rope_parameters = {"rope_type": rope, "rope_theta": 10000.0, "factor": 2.0}
    torch.manual_seed(0)
    from transformers import LlamaForCausalLM

    adapter = with_random_lora(LlamaForCausalLM(config).requires_grad_(requires_grad=False))
    rows = in_order(random_family(seed, count, template=template, longest=longest))
    # A position-dependent scaling of positions is told by the longest row, which must be the same in both.
    alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    loss, found = gradient(adapter, [rows], Layout.SHARED)
    assert abs(loss - alone[0]) <= 1e-5 * abs(alone[0])
    assert (found - alone[1]).abs().max() <= 1e-5 * alone[1].abs().max()


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_gradient_checkpointing_changes_nothing(architecture: str) -> None:
    adapter = with_random_lora(tiny_model(architecture))
    rows = in_order(random_family(5, 6))
    plain = gradient(adapter, [rows], Layout.SHARED)
    adapter.model.enable_input_require_grads()
    adapter.model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(gradient(adapter, [rows], Layout.SHARED), plain, rel=1e-6)


def test_in_bfloat16_it_is_as_near_as_another_split() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    adapter = with_random_lora(model)
    rows = in_order(random_family(0, 8))
    _, exact = gradient(with_random_lora(tiny_model("llama")), [[row] for row in rows], Layout.ALONE)
    _, alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    _, shared = gradient(adapter, [rows], Layout.SHARED)
    assert (shared - exact).norm() <= 1.5 * (alone - exact).norm()


def test_where_nothing_is_shared_it_is_plain_packing() -> None:
    adapter = with_random_lora(tiny_model("llama"))
    rows = random_rows(0, 7)
    assert_same(gradient(adapter, [rows], Layout.SHARED), gradient(adapter, [rows], Layout.MASKED))


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
def test_the_fastest_layout_is_chosen_and_leaves_no_trace(architecture: str) -> None:
    adapter = attach_lora(tiny_model(architecture), Lora(r=4, alpha=8), seed=0)
    assert choose_layout(adapter, vocab_size=VOCABULARY, dropout=0.0, device=CPU) == (Layout.SHARED, "")
    assert torch.equal(adapter.flat, adapter.initial)
    assert not adapter.grad.any()
    model = adapter.model.get_base_model()
    assert model.config._attn_implementation == "sdpa"
    assert all("forward" not in vars(m) and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_dropout_is_not_shared() -> None:
    adapter = with_random_lora(tiny_model("llama"), dropout=0.1)
    layout, reason = choose_layout(adapter, vocab_size=VOCABULARY, dropout=0.1, device=CPU)
    assert layout is Layout.CASCADE
    assert "dropout" in reason
    # and it drops: two forward passes differ
    rows = random_rows(0, 4)
    assert gradient(adapter, [rows], layout)[0] != gradient(adapter, [rows], layout)[0]


def test_a_recurrent_model_computes_every_row_alone() -> None:
    adapter = attach_lora(tiny_model("mamba"), Lora(r=4, alpha=8, target_modules="in_proj"), seed=0)
    layout, reason = choose_layout(adapter, vocab_size=VOCABULARY, dropout=0.0, device=CPU)
    assert layout is Layout.ALONE
    assert "MambaForCausalLM" in reason


def test_rows_longer_than_a_sliding_window_are_masked() -> None:
    adapter = attach_lora(tiny_model("mistral"), Lora(r=4, alpha=8), seed=0)
    assert window_of(adapter.model) == 6
    assert Layout.SHARED.for_rows(adapter.model, longest=6) is Layout.SHARED
    assert Layout.SHARED.for_rows(adapter.model, longest=7) is Layout.MASKED
    assert "other gradients" in cascade_fault(adapter, vocab_size=VOCABULARY, device=CPU)
    assert choose_layout(adapter, vocab_size=VOCABULARY, dropout=0.0, device=CPU)[0] is Layout.MASKED


def test_rows_within_a_sliding_window_are_exact() -> None:
    config = tiny_config("mistral")
    config.sliding_window = 128
    torch.manual_seed(0)
    from transformers import MistralForCausalLM

    adapter = with_random_lora(MistralForCausalLM(config).requires_grad_(requires_grad=False))
    assert not cascade_fault(adapter, vocab_size=VOCABULARY, device=CPU)
    rows = in_order(random_family(3, 6))
    assert_same(gradient(adapter, [rows], Layout.SHARED), gradient(adapter, [[r] for r in rows], Layout.ALONE))


def test_evaluation_is_as_it_was_after_training() -> None:
    adapter = with_random_lora(tiny_model("llama"))
    ids = torch.tensor([random.Random(0).sample(range(3, VOCABULARY), 12)])
    before = adapter.model(input_ids=ids).logits
    gradient(adapter, [random_rows(0, 3)], Layout.SHARED)
    assert torch.equal(adapter.model(input_ids=ids).logits, before)


def test_attention_that_is_more_than_a_softmax_is_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {name: getattr(tiny_config("llama"), name) for name in ("vocab_size", "hidden_size", "intermediate_size")}
    config = Gemma2Config(**shape, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    adapter = attach_lora(Gemma2ForCausalLM(config), Lora(r=4, alpha=8), seed=0)
    layout, reason = choose_layout(adapter, vocab_size=VOCABULARY, dropout=0.0, device=CPU)
    assert layout is Layout.MASKED
    assert "softcap" in reason
