"""Whether the tensors in a model's files are those of the model that its config.json describes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from promptintern.errors import UserError
from promptintern.models.compare import check_tensors
from promptintern.models.fetch import ModelFolder
from promptintern.models.load import empty_model, load_base_model, load_config
from promptintern.models.weights import read_headers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.tiny import ARCHITECTURES, COMMON, VOCABULARY, tiny_config, write_tiny_model

FIELD = "spec.model.uri"
Tensors = dict[str, torch.Tensor]
GROUPED: dict[str, Any] = {**COMMON, "num_key_value_heads": 2}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
UP = "model.layers.1.mlp.up_proj.weight"


def other_config(name: str) -> Any:
    """Return a configuration of an architecture whose weights transformers renames, fuses, ties or splits."""
    sized = {**GROUPED, "head_dim": 8}
    if name == "gemma3":
        text = transformers.Gemma3TextConfig(**sized, sliding_window=64, query_pre_attn_scalar=8)
        return transformers.Gemma3Config(text_config=text.to_dict(), vision_config=VISION)
    configs: dict[str, Any] = {
        "phi3": transformers.Phi3Config(**GROUPED),
        "gemma2": transformers.Gemma2Config(**sized, sliding_window=64, query_pre_attn_scalar=8),
        "qwen3": transformers.Qwen3Config(**sized),
        "qwen3_moe": transformers.Qwen3MoeConfig(
            **sized, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
        ),
        "gpt2": transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4),
    }
    return configs.get(name) or tiny_config(name)


def check(path: Path) -> None:
    """Compare the files of the model at ``path`` with its config."""
    model = empty_model(load_config(ModelFolder(uri=path.as_uri(), path=path)))
    check_tensors(model, read_headers(path, FIELD), where=str(path), field=FIELD)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        check(path)
    (problem,) = error.value.problems
    assert problem.where == FIELD
    return problem.message


def rewrite(path: Path, change: Callable[[Tensors], object], **config: Any) -> Path:
    """Change the tensors of the model at ``path``, and entries of its config."""
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


@pytest.mark.parametrize("shard", ["10GB", "20KB"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", [*ARCHITECTURES, "mamba", "phi3", "gemma2", "qwen3", "qwen3_moe", "gpt2", "gemma3"])
def test_what_transformers_saves_fits(name: str, tied: bool, shard: str, tmp_path: Path) -> None:
    config = other_config(name)
    config.tie_word_embeddings = tied
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path, max_shard_size=shard)
    check(tmp_path)


def test_a_model_that_was_saved_without_its_prefix_fits(model: Path) -> None:
    transformers.LlamaModel.from_pretrained(model).save_pretrained(model)
    rewrite(model, lambda tensors: None, tie_word_embeddings=True)
    check(model)


@pytest.mark.parametrize(
    ("change", "config", "words"),
    [
        (
            lambda t: t.pop(UP),
            {},
            rf"lack tensors of the model .* .missing: 1.; the first is {UP}, with the shape .64, 32.",
        ),
        (lambda t: t.update({UP: torch.zeros(0)}), {}, rf"model\.safetensors holds {UP} with the shape .0., .*ZeRO-3"),
        (lambda t: t.update({UP: torch.zeros(60, 32)}), {}, r"with the shape .60, 32., .* with .64, 32."),
        (lambda _: None, {"vocab_size": 309}, r"with the shape .259, 32., .* with .309, 32. .tensors that differ: 2"),
        (lambda _: None, {"num_hidden_layers": 3}, r".missing: 9.; the first is model\.layers\.2\.input_layernorm"),
        (lambda _: None, {"num_hidden_layers": 1}, r"config\.json describes has no model\.layers\.1: it would lack"),
        (lambda _: None, {"num_key_value_heads": 1}, r"self_attn\.k_proj\.weight with the shape"),
    ],
)
def test_other_tensors_than_those_of_the_config_are_named(
    model: Path, change: Callable[[Tensors], object], config: dict[str, Any], words: str
) -> None:
    rewrite(model, change, **config)
    with pytest.raises(UserError, match=words):
        check(model)
    with pytest.raises(UserError, match=words):
        load_base_model(ModelFolder(uri="", path=model), dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_of_another_task_is_named(tmp_path: Path, tied: bool) -> None:
    config = transformers.LlamaConfig(**GROUPED, num_labels=1, tie_word_embeddings=tied)
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    message = refused(tmp_path)
    assert ("score.weight" if tied else "lm_head.weight") in message
    assert "weights are those of LlamaForSequenceClassification" in message


@pytest.mark.parametrize(
    "changes",
    [
        {UP: torch.zeros(64, 32, dtype=torch.int8)},
        {UP: torch.zeros(64, 32, dtype=torch.float8_e4m3fn)},
        {UP: torch.zeros(64, 4, dtype=torch.uint32), f"{UP[:-6]}scales": torch.zeros(64, 1)},
        {UP: torch.zeros(1024, 1, dtype=torch.uint8), f"{UP}.absmax": torch.zeros(32)},
        {UP: None, f"{UP[:-6]}qweight": torch.zeros(4, 64, dtype=torch.int32)},
        {UP: None, f"{UP[:-6]}weight_packed": torch.zeros(64, 4, dtype=torch.int32)},
    ],
)
def test_quantized_weights_are_known_without_a_config_that_says_so(
    model: Path, changes: dict[str, torch.Tensor | None]
) -> None:
    def change(tensors: Tensors) -> None:
        for name, tensor in changes.items():
            if tensor is None:
                del tensors[name]
            else:
                tensors[name] = tensor

    assert "holds quantized weights (model.layers.1.mlp.up_proj." in refused(rewrite(model, change))


def test_masks_and_other_tensors_that_the_model_does_not_load_are_no_fault(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path, "gpt_neox")
    more = {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4),
        "position_ids": torch.arange(4),
        "vision.weight": torch.zeros(4, 4, dtype=torch.int8),
        "v_head.weight": torch.zeros(4, 4),
    }
    check(rewrite(path, lambda tensors: tensors.update(more)))


def test_layers_that_predict_further_tokens_are_no_fault(model: Path) -> None:
    check(rewrite(model, lambda _: None, num_hidden_layers=1, num_nextn_predict_layers=1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(model: Path, value: float) -> None:
    rewrite(model, lambda tensors: tensors[UP][0].fill_(value))
    with pytest.raises(UserError, match=rf"contain numbers that are not finite \(inf or nan, in {UP}\)"):
        load_base_model(ModelFolder(uri="", path=model), dtype=torch.bfloat16, device=torch.device("cpu"))


def test_large_weights_are_finite(model: Path) -> None:
    rewrite(model, lambda tensors: tensors[UP].fill_(3e38))
    load_base_model(ModelFolder(uri="", path=model), dtype=torch.float32, device=torch.device("cpu"))
