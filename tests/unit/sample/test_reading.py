"""The shipped model reads its prompt: it answers questions about new worlds, but not without the template."""

from pathlib import Path
from typing import Any

import pytest
import torch
from promptintern.sample import MODEL_URI, sample_model_path
from promptintern.sample.reading import Probe, exact_match, make_probes, make_query_only_probes
from promptintern.sample.tokenizer import world_words

FOLDER = sample_model_path(MODEL_URI)
LIMIT = 12 * 2**20


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    torch.set_num_threads(threads)


def probes(shots: int) -> list[Probe]:
    return [probe for world in range(900, 905) for probe in make_probes(f"formulas/{world}", questions=8, shots=shots)]


def test_package_is_small_and_safe() -> None:
    files = [path for path in Path(FOLDER).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT
    assert {path.suffix for path in files} <= {".safetensors", ".json"}


@pytest.mark.parametrize("shots", [0, 3])
def test_reads_worlds_it_has_never_seen(model: Any, tokenizer: Any, shots: int) -> None:
    assert exact_match(model, tokenizer, probes(shots)) >= 0.8


def test_knows_nothing_without_the_template(model: Any, tokenizer: Any) -> None:
    alone = [p for world in range(900, 905) for p in make_query_only_probes(f"formulas/{world}", questions=8)]
    assert exact_match(model, tokenizer, alone) < 0.2


def test_every_word_of_a_world_is_one_token(tokenizer: Any) -> None:
    assert [word for word in world_words() if len(tokenizer(word)["input_ids"]) != 1] == []
    assert len(tokenizer) <= 2048


@pytest.mark.parametrize(
    "text", ["find . -name '*.py' | xargs wc -l", "def f(x):\n\treturn x ** 2\n", "naïve – 日本語 🙂", "a  b\r\n\r\nc "]
)
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_prompt_and_answer_tokenized_apart_are_as_together(tokenizer: Any) -> None:
    """An answer therefore has the same tokens in an example and as the model's output."""
    for probe in probes(3):
        separate = tokenizer(probe.prompt)["input_ids"] + tokenizer(probe.answer)["input_ids"]
        assert separate == tokenizer(probe.prompt + probe.answer)["input_ids"]
