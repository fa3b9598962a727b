"""The adapter's flat buffer, and files that stock PEFT reads."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from promptintern.engine.adapter import Adapter, attach_lora
from promptintern.engine.adapter_config import read_adapter_config
from promptintern.errors import RunFailed, UserError
from promptintern_api.training import Lora
from transformers import FalconConfig, Gemma3Config, Gemma3TextConfig, GPT2Config, Llama4TextConfig

from tests.tiny import ARCHITECTURES, COMMON, VOCABULARY, random_model, tiny_config, tiny_model

GPT2 = GPT2Config(**{**COMMON, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256})


def random_adapter(architecture: str = "llama", *, r: int = 4) -> Adapter:
    adapter = attach_lora(tiny_model(architecture), Lora(r=r, alpha=8), seed=0)
    draw = torch.Generator().manual_seed(1)
    adapter.load_flat(torch.randn(adapter.flat.shape, generator=draw) * 0.1)
    return adapter


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.arange(3, 40)[None] % VOCABULARY
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def test_parameters_are_views_of_one_buffer() -> None:
    adapter = random_adapter()
    adapter.load_flat(torch.zeros_like(adapter.flat))
    trainable = [p for p in adapter.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == adapter.flat.numel()
    assert all(p.abs().max() == 0 for p in trainable)
    adapter.model.train()
    adapter.model(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    begin = adapter.grad.data_ptr()
    end = begin + adapter.grad.nbytes
    assert all(p.grad is not None and begin <= p.grad.data_ptr() <= end - p.grad.nbytes for p in trainable)


def test_the_gradients_norm_is_exact_for_many_numbers() -> None:
    adapter = random_adapter(r=1024)
    adapter.grad.copy_(torch.randn(adapter.grad.shape, generator=torch.Generator().manual_seed(0)))
    exact = math.sqrt(math.fsum(adapter.grad.double().square().tolist()))
    assert adapter.grad_norm() == pytest.approx(exact, rel=1e-9)


def test_the_same_seed_gives_the_same_start() -> None:
    one, same, other = (attach_lora(tiny_model("llama"), Lora(r=4), seed=s).initial for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stock_peft_gives_the_same_logits(architecture: str, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter = random_adapter(architecture)
    adapter.save(tmp_path, base_name="somewhere/base")
    loaded = PeftModel.from_pretrained(tiny_model(architecture), str(tmp_path))
    assert torch.equal(logits(loaded), logits(adapter.model))


def test_save_and_load_round_trip_is_exact(tmp_path: Path) -> None:
    adapter = random_adapter()
    kept = adapter.flat.detach().clone()
    adapter.save(tmp_path, base_name="base")
    adapter.load_flat(adapter.initial)
    assert not torch.equal(adapter.flat, kept)
    adapter.load(tmp_path)
    assert torch.equal(adapter.flat, kept)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    adapter = random_adapter()
    for name in ("a", "b"):
        adapter.save(tmp_path / name, base_name="base")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_adapter_of_other_modules_is_refused(tmp_path: Path) -> None:
    attach_lora(tiny_model("llama"), Lora(r=4, target_modules="q_proj"), seed=0).save(tmp_path, base_name="base")
    with pytest.raises(RunFailed, match=r"training\.lora"):
        random_adapter().load(tmp_path)


def test_unknown_target_modules_name_the_field() -> None:
    with pytest.raises(UserError, match=r"spec\.training\.lora\.targetModules"):
        attach_lora(tiny_model("llama"), Lora(target_modules="no_such_layer"), seed=0)


def test_targets_that_peft_stores_otherwise_are_refused_before_training() -> None:
    with pytest.raises(UserError, match=r"targetModules: names model\.embed_tokens, which is no linear layer"):
        attach_lora(tiny_model("llama"), Lora(r=4, target_modules="q_proj,embed_tokens"), seed=0)


@pytest.mark.parametrize("targets", ["q_proj,nonsense", "all-linear,q_proj", "vision_proj,q_proj"])
def test_each_name_that_no_linear_layer_has_is_named(targets: str) -> None:
    (wrong,) = set(targets.split(",")) - {"q_proj"}
    with pytest.raises(UserError, match=rf"targetModules: names {wrong}, which is no linear layer .* such as q_proj"):
        attach_lora(tiny_model("llama"), Lora(r=4, target_modules=targets), seed=0)


@pytest.mark.parametrize("targets", ["w1,w2,w3", "q_proj,w2"])
def test_the_names_of_experts_that_peft_replaces_are_no_fault(targets: str) -> None:
    assert attach_lora(tiny_model("mixtral"), Lora(r=4, target_modules=targets), seed=0).slots


def composite() -> Any:
    """Return a model of text and images."""
    sized = {**COMMON, "num_key_value_heads": 2, "head_dim": 8}
    vision = {name: COMMON[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    return random_model(
        Gemma3Config(
            text_config=Gemma3TextConfig(**sized, sliding_window=64, query_pre_attn_scalar=8).to_dict(),
            vision_config={**vision, "num_attention_heads": 4, "image_size": 28, "patch_size": 14},
        )
    )


@pytest.mark.parametrize("targets", ["all-linear", "q_proj,out_proj,v_proj", "q_proj"])
def test_only_the_language_model_of_a_composite_model_is_adapted(targets: str, tmp_path: Path) -> None:
    from peft import PeftModel

    if "out_proj" in targets:  # only the part that sees images has such layers
        with pytest.raises(UserError, match="targetModules: names out_proj, which is no linear layer of the language"):
            attach_lora(composite(), Lora(r=4, target_modules=targets), seed=0)
        return
    adapter = attach_lora(composite(), Lora(r=4, target_modules=targets), seed=0)
    assert all(".language_model." in slot.name for slot in adapter.slots)
    adapter.load_flat(torch.randn(adapter.flat.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    adapter.save(tmp_path, base_name="base")
    assert read_adapter_config(tmp_path, where="").target_modules
    loaded = PeftModel.from_pretrained(composite(), str(tmp_path))
    assert torch.equal(logits(loaded), logits(adapter.model))


def test_a_router_that_is_a_linear_layer_by_its_class_only_is_left_out() -> None:
    config = Llama4TextConfig(
        **COMMON, num_key_value_heads=2, head_dim=8, num_local_experts=2, intermediate_size_mlp=64
    )
    adapter = attach_lora(random_model(config), Lora(r=4), seed=0)
    assert adapter.slots and not any(".router." in slot.name for slot in adapter.slots)
    with pytest.raises(UserError, match="targetModules: names router, which is no linear layer"):
        attach_lora(random_model(config), Lora(r=4, target_modules="router,q_proj"), seed=0)


def test_a_layer_that_computes_what_a_linear_layer_computes_is_adapted() -> None:
    config = FalconConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    assert attach_lora(random_model(config), Lora(r=4, target_modules="query_key_value"), seed=0).slots


def test_dropout_where_it_cannot_be_is_named() -> None:
    with pytest.raises(UserError, match=r"spec\.training\.lora\.dropout"):
        attach_lora(tiny_model("mixtral"), Lora(r=4, dropout=0.1), seed=0)


def test_the_config_is_written_in_one_order_with_the_revision(tmp_path: Path) -> None:
    random_adapter().save(tmp_path, base_name="org/base", revision="abc")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", "abc")


def sharing_layers() -> Any:
    """Return a model whose two layers are one, as in ALBERT."""
    model = tiny_model("llama")
    model.model.layers[1].self_attn.q_proj = model.model.layers[0].self_attn.q_proj
    return model


def tied(architecture: str = "llama") -> Any:
    """Return a model whose output layer has the weights of the embeddings."""
    config = tiny_config(architecture)
    config.tie_word_embeddings = True
    return random_model(config)


@pytest.mark.parametrize(
    ("model", "targets", "named"),
    [
        (tied, "q_proj,lm_head", "lm_head, whose weights are also those of model.embed_tokens"),
        (lambda: tied("qwen2"), "lm_head", "lm_head, whose weights are also those of model.embed_tokens"),
        (lambda: random_model(GPT2), "c_attn,lm_head", "lm_head, whose weights are also those of transformer.wte"),
        (sharing_layers, "q_proj", "layers.0.self_attn.q_proj, whose weights are also those of"),
    ],
)
def test_lora_on_weights_of_two_layers_is_refused(model: Callable[[], Any], targets: str, named: str) -> None:
    with pytest.raises(UserError, match=r"spec\.training\.lora\.targetModules: names") as refused:
        attach_lora(model(), Lora(r=4, alpha=8, target_modules=targets), seed=0)
    assert named in str(refused.value)


@pytest.mark.parametrize("targets", ["all-linear", "q_proj"])
def test_a_tied_output_layer_without_lora_is_no_fault(targets: str) -> None:
    assert attach_lora(tied(), Lora(r=4, alpha=8, target_modules=targets), seed=0).slots
