"""Packed computation against one prompt a row."""

import pytest
import torch
from promptintern.engine.adapter import attach_lora
from promptintern.engine.packing.forward import pack_loss, pack_tensors, packs_exactly
from promptintern.engine.packing.layout import PackLayout
from promptintern_api.training import Lora

from tests.tiny import ARCHITECTURES, VOCABULARY, tiny_model
from tests.unit.engine.adapters import CPU, gradient, with_random_lora
from tests.unit.engine.rows import random_rows


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("seed", [0, 1])
def test_packed_loss_and_gradients_equal_unpacked_ones(architecture: str, seed: int) -> None:
    adapter = with_random_lora(tiny_model(architecture))
    rows = random_rows(seed, 7)
    loss, alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    packed_loss, packed = gradient(adapter, [rows[:4], rows[4:]], PackLayout.MASKED)
    assert abs(packed_loss - loss) < 1e-5 * abs(loss)
    assert (packed - alone).abs().max() < 1e-5 * alone.abs().max()
    assert alone.abs().max() > 1e-4  # there is something to compare


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pack_loss_is_the_loss_of_the_answers_alone(architecture: str) -> None:
    model = tiny_model(architecture).eval()
    rows = random_rows(3, 4)
    expected = 0.0
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.answer_ids]])
        log_p = model(input_ids=ids).logits[0].log_softmax(-1)
        start = len(row.prompt_ids)
        expected -= sum(log_p[start + i - 1, token].item() for i, token in enumerate(row.answer_ids))
    assert pack_loss(model, pack_tensors(rows, device=CPU)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_probe_allows_packing(architecture: str) -> None:
    assert packs_exactly(tiny_model(architecture).eval(), vocab_size=VOCABULARY, device=CPU)


def test_the_probe_refuses_a_recurrent_model() -> None:
    assert not packs_exactly(tiny_model("mamba").eval(), vocab_size=VOCABULARY, device=CPU)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_gradient_checkpointing_changes_nothing(architecture: str) -> None:
    rows = random_rows(5, 5)
    adapter = with_random_lora(tiny_model(architecture))
    loss, plain = gradient(adapter, [rows], PackLayout.MASKED)
    adapter.model.enable_input_require_grads()
    adapter.model.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed_loss, checkpointed = gradient(adapter, [rows], PackLayout.MASKED)
    assert checkpointed_loss == pytest.approx(loss, rel=1e-6)
    assert (checkpointed - plain).abs().max() <= 1e-6 * plain.abs().max()


def test_bfloat16_base_keeps_float32_parameters_and_trains() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    adapter = attach_lora(model, Lora(r=4, alpha=8), seed=0)
    loss, grad = gradient(adapter, [random_rows(0, 4)], PackLayout.MASKED)
    assert adapter.flat.dtype is torch.float32
    assert torch.isfinite(grad).all()
    assert grad.abs().max() > 0
    assert loss > 0
