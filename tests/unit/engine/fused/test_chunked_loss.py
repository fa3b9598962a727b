"""The chunked loss against logits and cross entropy."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from promptintern.engine.answer_loss import AnswerTargets
from promptintern.engine.fused import chunked_loss as module
from promptintern.engine.fused.chunked_loss import chunked_loss

from tests.tiny import ARCHITECTURES, VOCABULARY, tiny_model

IDS = torch.arange(3, 19)[None]
PREDICTS = torch.tensor([4, 5, 6, 11, 12])
ANSWERS = torch.tensor([7, 9, 3, 12, 12])


def losses(model: Any, hidden: torch.Tensor, **more: Any) -> torch.Tensor:
    logits: torch.Tensor = model(inputs_embeds=hidden, logits_to_keep=PREDICTS, use_cache=False, **more).logits
    return logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chunk_rows", [1, 2, 5, 100])
def test_losses_and_gradients(architecture: str, chunk_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._CHUNK_LOGITS, "cpu", chunk_rows * VOCABULARY)
    model = tiny_model(architecture)
    hidden = model.get_input_embeddings()(IDS).detach().requires_grad_()
    weights = torch.linspace(0.5, 2, len(ANSWERS))
    expected = F.cross_entropy(losses(model, hidden)[0], ANSWERS, reduction="none")
    (expected_grad,) = torch.autograd.grad(expected @ weights, hidden)
    with chunked_loss(model) as is_chunked:
        assert is_chunked
        chunked = losses(model, hidden, answers=AnswerTargets(labels=ANSWERS))
        assert chunked.shape == (1, len(ANSWERS), 1)
        (chunked_grad,) = torch.autograd.grad(chunked[0, :, 0] @ weights, hidden)
    assert torch.allclose(chunked[0, :, 0], expected, rtol=1e-5)
    assert torch.allclose(chunked_grad, expected_grad, rtol=1e-4, atol=1e-6)
    assert losses(model, hidden).shape == (1, len(ANSWERS), VOCABULARY)


def scaled(model: Any) -> None:
    forward = model.forward

    def more(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits / 2
        return output

    model.forward = more


def trained(model: Any) -> None:
    model.get_output_embeddings().weight.requires_grad_()


@pytest.mark.parametrize("change", [scaled, trained])
def test_logits_that_differ_from_the_output_layers_are_returned_whole(change: Callable[[Any], None]) -> None:
    model = tiny_model("llama")
    change(model)
    hidden = model.get_input_embeddings()(IDS)
    with chunked_loss(model) as is_chunked:
        assert not is_chunked
        assert losses(model, hidden, answers=AnswerTargets(labels=ANSWERS)).shape == (1, len(ANSWERS), VOCABULARY)
