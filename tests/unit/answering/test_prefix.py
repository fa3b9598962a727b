"""The shared prefix of all prompts is computed once, and the answers are the same."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from promptintern.answering import batches as module
from promptintern.answering.agreement import logit_difference
from promptintern.answering.answers import Decoding
from promptintern.answering.batches import _first_logits, answer_in_batches, usable_prefix
from promptintern.answering.prefix import MIN_TOKENS, CachedPrefix, compute_prefix, shared_tokens

from tests.tiny import ARCHITECTURES, COMMON, VOCABULARY, random_model, tiny_config, tiny_model, write_tiny_model

CPU = torch.device("cpu")
BEGINNING = [(7 * n) % 60 + 20 for n in range(2 * MIN_TOKENS)]
PROMPTS = [[*BEGINNING, *range(30, 30 + n)] for n in (3, 9, 1, 7, 5)]
WHOLE_ATTENTION = sorted(set(ARCHITECTURES) - {"mistral"})
"""The tiny Mistral has a window shorter than these prompts."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("model")))


def answers(model: Any, tokenizer: Any, *, batch_size: int = 2, share_prefix: bool) -> list[str]:
    decoding = Decoding(max_new_tokens=6, batch_size=batch_size)
    written = answer_in_batches(model, tokenizer, PROMPTS, decoding=decoding, device=CPU, share_prefix=share_prefix)
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
    alone = [
        answer_in_batches(model, tokenizer, [p], decoding=Decoding(max_new_tokens=6), device=CPU)[0].text
        for p in PROMPTS
    ]
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
    first, pair, shortest, longest, second, *decoded = computed
    assert (first, second) == (len(BEGINNING), len(PROMPTS) * longest_rest)
    # Two prompts after the prefix and alone, to check that the model continues the prefix correctly.
    assert (pair, shortest, longest) == (2 * longest_rest, min(map(len, PROMPTS)), max(map(len, PROMPTS)))
    assert set(decoded) <= {len(PROMPTS)}


def test_an_adapter_that_is_off_is_off_for_the_beginning_too(tokenizer: Any) -> None:
    base = answers(tiny_model("llama").eval(), tokenizer, share_prefix=False)
    model = with_adapter(tiny_model("llama"))
    with model.disable_adapter():
        assert answers(model, tokenizer, share_prefix=True) == base
    assert answers(model, tokenizer, share_prefix=True) != base


GPT: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}


def difference(model: Any, tokenizer: Any, prefix: CachedPrefix) -> float:
    """Return by how much the logits that continue from ``prefix`` differ from those of each whole prompt."""
    with torch.inference_mode():
        alone = torch.cat([_first_logits(model, tokenizer, [prompt], CPU, None) for prompt in PROMPTS])
        return logit_difference(_first_logits(model, tokenizer, PROMPTS, CPU, prefix), alone)


def models_with_prefix() -> dict[str, Any]:
    """Return models with rotary, learned or additive positions, or with rotary positions in a part of each head."""
    return {
        **{name: tiny_config(name) for name in WHOLE_ATTENTION},
        "gpt2": transformers.GPT2Config(**GPT),
        "opt": transformers.OPTConfig(**COMMON, ffn_dim=64, word_embed_proj_dim=32),
        "falcon with alibi": transformers.FalconConfig(**COMMON, alibi=True, new_decoder_architecture=False),
        "roberta that decodes": transformers.RobertaConfig(**COMMON, is_decoder=True),
        "deepseek": transformers.DeepseekV3Config(
            **COMMON,
            **{"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2},
            **{"topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "first_k_dense_replace": 1},
            **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4},
        ),
    }


@pytest.mark.parametrize("name", models_with_prefix())
def test_logits_are_the_same(name: str, tokenizer: Any) -> None:
    model = random_model(models_with_prefix()[name]).eval()
    with torch.inference_mode():
        prefix = compute_prefix(model, PROMPTS, CPU)
    assert prefix is not None
    assert difference(model, tokenizer, prefix) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_rounding_does_not_keep_a_prefix_from_being_used(name: str, dtype: torch.dtype, tokenizer: Any) -> None:
    config = copy_of(models_with_prefix()[name], num_hidden_layers=30, initializer_range=0.1)
    model = random_model(config).eval().to(dtype)
    with torch.inference_mode():
        assert usable_prefix(model, tokenizer, PROMPTS, CPU) is not None


def models_without_prefix() -> dict[str, Any]:
    """Return models that cannot continue a padded prefix, each for a different reason."""
    llama = tiny_config("llama")
    return {
        "a window": tiny_config("mistral"),
        "a window by another name": transformers.GPTNeoConfig(
            **{"vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 8},
            attention_types=[[["global", "local"], 1]],
        ),
        "no attention": tiny_config("mamba"),
        "takes no positions": transformers.MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4),
        "takes no keys and values": transformers.OpenAIGPTConfig(**GPT),
        "scales positions": copy_of(
            llama, rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
        ),
        "scales queries": copy_of(llama, attn_temperature_tuning=True, floor_scale=8192),
    }


def copy_of(config: Any, **changes: Any) -> Any:
    copy = deepcopy(config)
    for name, value in changes.items():
        setattr(copy, name, value)
    return copy


@pytest.mark.parametrize("name", models_without_prefix())
def test_models_that_would_notice_compute_every_prompt_whole(name: str) -> None:
    model = random_model(models_without_prefix()[name]).eval()
    with torch.inference_mode():
        assert compute_prefix(model, PROMPTS, CPU) is None


def test_what_no_config_tells_is_seen_at_two_prompts(tokenizer: Any) -> None:
    """Tokens of this model attend to later tokens."""
    model = random_model(transformers.BertConfig(**COMMON)).eval()
    with torch.inference_mode():
        prefix = compute_prefix(model, PROMPTS, CPU)
        assert usable_prefix(model, tokenizer, PROMPTS, CPU) is None
    assert prefix is not None
    assert difference(model, tokenizer, prefix) > 1e-3
    assert answers(model, tokenizer, share_prefix=True) == answers(model, tokenizer, batch_size=1, share_prefix=False)


def test_a_prompt_that_has_memory_only_without_the_prefix_gets_it(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama").eval()
    plain, with_prefix = answers(model, tokenizer, share_prefix=False), []
    original = module._generate_batch

    def small_device(*arguments: Any) -> Any:
        *_, prefix = arguments
        with_prefix.append(prefix is not None)
        if prefix is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*arguments)

    monkeypatch.setattr(module, "_generate_batch", small_device)
    assert answers(model, tokenizer, share_prefix=True) == plain
    assert with_prefix == [True, True, False, False, False]


def test_little_in_common_is_not_kept() -> None:
    model = tiny_model("llama").eval()
    assert compute_prefix(model, [p[len(BEGINNING) - MIN_TOKENS + 1 :] for p in PROMPTS], CPU) is None
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
