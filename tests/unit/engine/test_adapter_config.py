"""Hostile adapter_config.json files do not reach PEFT, and the trainer's own do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from promptintern.engine.adapter import attach_lora
from promptintern.engine.adapter_config import read_adapter_config
from promptintern.errors import UserError
from promptintern_api.training import Lora

from tests.tiny import ARCHITECTURES, COMMON, VOCABULARY, random_model, tiny_config

VALID: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj"],
    "bias": "none",
    "base_model_name_or_path": "org/base",
}


def refusal(folder: Path, content: str | bytes) -> str:
    """Return the message with which a file of this content is refused."""
    (folder / "adapter_config.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as refused:
        read_adapter_config(folder, where="s3://bucket/run/adapter")
    message = str(refused.value)
    assert message.startswith("s3://bucket/run/adapter/adapter_config.json: ")
    assert "Train the adapter again" in message
    return message


def configs() -> dict[str, Any]:
    """Return models with separate, fused and transposed projections, with soft caps, query norms and experts."""
    grouped = {**COMMON, "num_key_value_heads": 2}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
    return {
        **{name: tiny_config(name) for name in ARCHITECTURES},
        "gpt2": transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256),
        "phi3": transformers.Phi3Config(**grouped),
        "gemma2": transformers.Gemma2Config(**grouped, head_dim=8, sliding_window=64, query_pre_attn_scalar=8),
        "qwen3": transformers.Qwen3Config(**grouped, head_dim=8),
        "qwen3_moe": transformers.Qwen3MoeConfig(**grouped, head_dim=8, **experts, mlp_only_layers=[]),
    }


@pytest.mark.parametrize("architecture", configs())
def test_the_trainers_own_options_give_the_same_logits(architecture: str, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter = attach_lora(random_model(configs()[architecture]), Lora(r=4, alpha=8), seed=0)
    adapter.load_flat(torch.randn(adapter.flat.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    adapter.save(tmp_path, base_name="somewhere/base", revision="abc")
    config = read_adapter_config(tmp_path, where="adapter").peft_config()
    loaded = PeftModel.from_pretrained(random_model(configs()[architecture]), str(tmp_path), config=config)
    ids = torch.arange(3, 40)[None] % VOCABULARY
    with torch.no_grad():
        expected, actual = (model.eval()(input_ids=ids).logits for model in (adapter.model, loaded))
    assert torch.equal(actual, expected)


def test_every_default_of_the_installed_peft_counts_as_off(tmp_path: Path) -> None:
    from peft import LoraConfig

    LoraConfig(**{name: value for name, value in VALID.items() if name != "peft_type"}).save_pretrained(str(tmp_path))
    assert read_adapter_config(tmp_path, where="adapter").r == 4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"peft_type": "XLORA"}, "peft_type"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type"),
        ({"peft_type": ["LORA"]}, "peft_type"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}}, "auto_mapping"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil.core"}, "megatron_config"),
        ({"megatron_core": "evil.core"}, "megatron_core"),
        ({"corda_config": {"cache_file": "/tmp/cache.pt"}}, "corda_config"),
        ({"eva_config": {"rho": 2.0}}, "eva_config"),
        ({"runtime_config": {"ephemeral_gpu_offload": True}}, "runtime_config"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": 1}, "init_lora_weights"),
        ({"layer_replication": [[0, 100000]]}, "layer_replication"),
        ({"layers_to_transform": 0}, "layers_to_transform"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"exclude_modules": "(a+)+$"}, "exclude_modules"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"use_dora": True}, "use_dora"),
        ({"use_rslora": True}, "use_rslora"),
        ({"fan_in_fan_out": 1}, "fan_in_fan_out"),
        ({"an_option_of_a_later_peft": {"module": "os"}}, "an_option_of_a_later_peft"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"target_modules": "(a+)+$"}, "target_modules"),
        ({"target_modules": ["q_proj", "(a+)+$"]}, "target_modules"),
        ({"target_modules": None}, "target_modules"),
        ({"target_parameters": ["x" * 513]}, "target_parameters"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": 10**9}}, "rank_pattern"),
        ({"alpha_pattern": {".*": 4.0}}, "alpha_pattern"),
        ({"r": 10**9}, "r: "),
        ({"r": 0}, "r: "),
        ({"r": True}, "r: "),
        ({"r": "4"}, "r: "),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"lora_dropout": float("nan")}, "lora_dropout"),
        ({"bias": "all"}, "bias"),
        ({"base_model_name_or_path": {"path": "/"}}, "base_model_name_or_path"),
        ({"base_model_name_or_path": "x" * 5000}, "base_model_name_or_path"),
    ],
)
def test_every_other_option_is_refused_by_name(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    assert named in refusal(tmp_path, json.dumps(VALID | options))


@pytest.mark.parametrize("option", ["peft_type", "task_type", "r", "lora_alpha", "target_modules"])
def test_an_option_that_the_trainer_always_writes_is_required(option: str, tmp_path: Path) -> None:
    assert option in refusal(tmp_path, json.dumps({k: v for k, v in VALID.items() if k != option}))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"LORA"', b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'{"r": 1e999999}'],
)
def test_a_file_that_is_not_one_flat_object_is_refused(content: bytes, tmp_path: Path) -> None:
    refusal(tmp_path, content)


def test_a_huge_file_is_not_parsed(tmp_path: Path) -> None:
    assert "bytes" in refusal(tmp_path, json.dumps(VALID) + " " * 2**23)


def test_the_name_of_an_option_cannot_flood_the_message(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, json.dumps(VALID | {"x" * 10**6: True}))) < 500
    assert len(refusal(tmp_path, json.dumps(VALID | {"rank_pattern": {"x" * 10**6: 1}}))) < 500


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^adapter/adapter_config\.json: cannot be read \(No such file"):
        read_adapter_config(tmp_path, where="adapter/")


def test_the_options_name_no_base_model_to_peft(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(VALID | {"revision": "main"}))
    config = read_adapter_config(tmp_path, where="adapter").peft_config()
    assert (config.base_model_name_or_path, config.revision) == (None, None)
