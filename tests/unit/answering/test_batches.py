"""Greedy answers do not depend on the batch or on the model's own generation config."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from promptintern.answering import batches as module
from promptintern.answering.answers import Decoding, Ending, answer_of
from promptintern.answering.batches import answer_in_batches
from promptintern.errors import RunFailed

from tests.tiny import write_tiny_model

CPU = torch.device("cpu")
PROMPTS = [[1, *range(10, 10 + n)] for n in (3, 9, 5, 7)]


@pytest.fixture
def model(tmp_path: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_tiny_model(tmp_path)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def answers(model: tuple[Any, Any], *, batch_size: int = 4, **decoding: Any) -> list[str]:
    settings = Decoding(max_new_tokens=6, batch_size=batch_size, **decoding)
    return [a.text for a in answer_in_batches(*model, PROMPTS, decoding=settings, device=CPU)]


def test_the_models_own_generation_config_changes_nothing(model: tuple[Any, Any]) -> None:
    plain = answers(model)
    own = model[0].generation_config
    first = model[1](plain[0], add_special_tokens=False)["input_ids"][0]
    own.suppress_tokens, own.repetition_penalty, own.min_new_tokens = [first], 3.0, 5
    own.temperature, own.do_sample = 2.0, True
    assert answers(model) == plain
    assert model[0].generation_config is own


def test_a_batch_too_large_for_the_device_is_halved(model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, sizes = answers(model), []
    original = module._generate_batch

    def small_device(model: Any, tokenizer: Any, prompts: Any, *rest: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, tokenizer, prompts, *rest)

    monkeypatch.setattr(module, "_generate_batch", small_device)
    assert answers(model) == plain
    assert sizes == [4, 2, 1, 1, 2, 1, 1]


def test_a_single_prompt_too_large_for_the_device_is_named(
    model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "_generate_batch", no_memory)
    with pytest.raises(RunFailed, match="too little memory to answer a prompt of 4 tokens"):
        answers(model)


def test_a_padding_token_within_an_answer_is_text(model: tuple[Any, Any]) -> None:
    """Some tokenizers pad with an ordinary token, such as a bracket."""
    tokenizer = copy.deepcopy(model[1])
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    text = list(tokenizer("a b", add_special_tokens=False).input_ids)
    inside = answer_of(tokenizer, [*text, pad, *text, end, pad], {end}, [])
    assert (inside.text, inside.tokens) == ("a ba b", 2 * len(text) + 2)
    stopped = answer_of(tokenizer, [*text, pad, pad], {end}, ["b"])
    assert (stopped.text, stopped.tokens, stopped.ending) == ("a ", len(text), Ending.STOP)


def test_an_answer_ends_at_the_tokens_that_the_decoding_adds(model: tuple[Any, Any]) -> None:
    first = model[1](answers(model)[0], add_special_tokens=False).input_ids[0]
    decoding = Decoding(max_new_tokens=6, ends=(first,))
    (answer,) = answer_in_batches(*model, PROMPTS[:1], decoding=decoding, device=CPU)
    assert (answer.tokens, answer.ending) == (1, Ending.END_TOKEN)
