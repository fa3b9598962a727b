"""What all prompts begin with is computed once, and the answers are the same."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from promptintern.evaluate.generate import Decoding, generate
from promptintern.evaluate.prefix import LEAST_TOKENS, compute_prefix, shared_tokens

from tests.tiny import ARCHITECTURES, tiny_model, write_tiny_model

CPU = torch.device("cpu")
BEGINNING = [(7 * n) % 60 + 20 for n in range(2 * LEAST_TOKENS)]
PROMPTS = [[*BEGINNING, *range(30, 30 + n)] for n in (3, 9, 1, 7, 5)]
WHOLE_ATTENTION = sorted(set(ARCHITECTURES) - {"mistral"})
"""The tiny Mistral has a window shorter than these prompts."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("model")))


def answers(model: Any, tokenizer: Any, *, batch_size: int = 2, share_prefix: bool) -> list[str]:
    decoding = Decoding(max_new_tokens=6, batch_size=batch_size)
    written = generate(model, tokenizer, PROMPTS, decoding=decoding, device=CPU, share_prefix=share_prefix)
    return [answer.text for answer in written]


def with_adapter(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return adapted.eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("adapted", [False, True])
def test_answers_are_the_same(architecture: str, adapted: bool, tokenizer: Any) -> None:
    model = tiny_model(architecture).eval()
    if adapted:
        model = with_adapter(model)
    alone = [generate(model, tokenizer, [p], decoding=Decoding(max_new_tokens=6), device=CPU)[0].text for p in PROMPTS]
    assert len(set(alone)) > 1
    assert answers(model, tokenizer, share_prefix=True) == alone
    assert answers(model, tokenizer, share_prefix=False) == alone


@pytest.mark.parametrize("architecture", WHOLE_ATTENTION)
def test_the_beginning_is_computed_once(architecture: str, tokenizer: Any) -> None:
    model = tiny_model(architecture).eval()
    computed: list[int] = []
    layer = (model.model.layers if hasattr(model, "model") else model.gpt_neox.layers)[0]
    layer.register_forward_pre_hook(lambda _module, inputs: computed.append(inputs[0].shape[0] * inputs[0].shape[1]))
    answers(model, tokenizer, batch_size=len(PROMPTS), share_prefix=True)
    longest_rest = max(map(len, PROMPTS)) - len(BEGINNING)
    first, second, *decoded = computed
    assert (first, second) == (len(BEGINNING), len(PROMPTS) * longest_rest)
    assert set(decoded) <= {len(PROMPTS)}


def test_an_adapter_that_is_off_is_off_for_the_beginning_too(tokenizer: Any) -> None:
    base = answers(tiny_model("llama").eval(), tokenizer, share_prefix=False)
    model = with_adapter(tiny_model("llama"))
    with model.disable_adapter():
        assert answers(model, tokenizer, share_prefix=True) == base
    assert answers(model, tokenizer, share_prefix=True) != base


@pytest.mark.parametrize("architecture", ["mistral", "mamba"])
def test_models_that_would_notice_compute_every_prompt_whole(architecture: str) -> None:
    assert compute_prefix(tiny_model(architecture).eval(), PROMPTS, CPU) is None


def test_positions_that_depend_on_the_rows_length_are_noticed() -> None:
    model = tiny_model("llama").eval()
    assert compute_prefix(model, PROMPTS, CPU) is not None
    model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    assert compute_prefix(model, PROMPTS, CPU) is None


def test_little_in_common_is_not_kept() -> None:
    model = tiny_model("llama").eval()
    assert compute_prefix(model, [p[len(BEGINNING) - LEAST_TOKENS + 1 :] for p in PROMPTS], CPU) is None
    assert compute_prefix(model, PROMPTS[:1], CPU) is None
    assert compute_prefix(model, [], CPU) is None


def test_no_memory_for_the_beginning_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama").eval()

    def no_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.model, "forward", no_memory)
    assert compute_prefix(model, PROMPTS, CPU) is None


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=5))
def test_shared_tokens(prompts: list[list[int]]) -> None:
    count = shared_tokens(prompts)
    assert all(prompt[:count] == prompts[0][:count] and len(prompt) > count for prompt in prompts)
    longer = [prompt[: count + 1] for prompt in prompts]
    assert any(a != longer[0] for a in longer) or any(len(prompt) == count + 1 for prompt in prompts)
