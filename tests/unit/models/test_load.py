"""Faults of a model's configuration and tokenizer are named, and models that are not trained are told apart."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from promptintern.errors import UserError
from promptintern.models import load
from promptintern.models.fetch import ModelFolder

from tests.tiny import COMMON, write_tiny_model

TEXT = {**COMMON, "model_type": "llama"}


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    path = write_tiny_model(tmp_path / "model")
    return ModelFolder(uri=path.as_uri(), path=path)


def rewrite(model: ModelFolder, name: str, **changes: Any) -> None:
    """Change entries of one of the model's JSON files; an entry that becomes ``...`` is removed."""
    file = model.path / name
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (transformers.T5Config(), "is not a causal language model: t5 is an encoder with a decoder"),
        (transformers.BartConfig(), "is not a causal language model: bart is an encoder with a decoder"),
        (transformers.WhisperConfig(), "is not a causal language model: whisper is an encoder with a decoder"),
        (transformers.ModernBertConfig(), "is not a causal language model: config.json says that it is of the kind"),
        (transformers.LlavaConfig(text_config=TEXT), r"llava is a composite model .* its language model \(llama\)"),
        (transformers.Qwen2VLConfig(), r"qwen2_vl is a composite model .* its language model \(qwen2_vl_text\)"),
    ],
)
def test_models_of_other_kinds_are_refused(config: Any, words: str) -> None:
    with pytest.raises(UserError, match=rf"spec\.model\.uri: .*{words}"):
        load.empty_model(config)


@pytest.mark.parametrize("name", ["Bert", "Roberta", "Electra", "RemBert", "BigBird"])
def test_a_model_that_sees_later_tokens_is_refused_unless_it_is_a_decoder(name: str) -> None:
    kind = getattr(transformers, f"{name}Config")
    small = {**COMMON, "embedding_size": 32}
    with pytest.raises(UserError, match=r"spec\.model\.uri: is not causal: in .*, a token sees the tokens after it"):
        load.empty_model(kind(**small))
    load.empty_model(kind(**small, is_decoder=True))


@pytest.mark.parametrize("name", ["Llama", "GPTNeoX", "GPTNeoXJapanese"])
def test_a_causal_model_need_not_say_that_it_is_a_decoder(name: str) -> None:
    load.empty_model(getattr(transformers, f"{name}Config")(**COMMON, is_decoder=False))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_position_embeddings": None}, "cannot be read: .*'max_position_embeddings' expected int, got NoneType"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "cannot be read: .*Missing required keys"),
        ({"rope_parameters": {"rope_type": "su"}}, "describes a model that cannot be built: 'su' is an unknown rope"),
        (
            {"model_type": "mystery", "auto_map": {"AutoConfig": "configuration_m.C"}},
            "cannot be read: it needs code from the model's repository, and such code is never run",
        ),
    ],
)
def test_a_fault_of_the_configuration_is_not_blamed_on_the_tokenizer(
    model: ModelFolder, changes: dict[str, Any], words: str
) -> None:
    rewrite(model, "config.json", **changes)
    with pytest.raises(UserError, match=rf"spec\.model\.uri: .*config\.json {words}"):
        load.load_tokenizer(model)
        load.empty_model(load.load_config(model))


def test_the_dtype_of_the_configuration_is_not_used(model: ModelFolder) -> None:
    rewrite(model, "config.json", dtype="float8_e4m3fn")
    load.empty_model(load.load_config(model))


def test_code_of_a_model_that_transformers_has_is_warned_of(model: ModelFolder) -> None:
    assert load.custom_code_warnings(model, load.load_config(model)) == []
    rewrite(model, "config.json", auto_map={"AutoModelForCausalLM": "modeling_m.M"})
    (warning,) = load.custom_code_warnings(model, load.load_config(model))
    assert "never run: the model of the kind llama of transformers is trained" in warning


@pytest.mark.parametrize("other", [None, "tokenizer.model"])
def test_a_missing_tokenizer_is_named(model: ModelFolder, other: str | None) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model.path / name).unlink()
    if other is not None:
        (model.path / other).write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02")
    with pytest.raises(UserError, match=r"cannot be loaded: tokenizer\.json is missing"):
        load.load_tokenizer(model)


def test_a_tokenizer_with_code_of_its_own_is_named(model: ModelFolder) -> None:
    changes = {"auto_map": {"AutoTokenizer": ["tok_m.Tok", None]}, "tokenizer_class": "MysteryTokenizer"}
    rewrite(model, "tokenizer_config.json", **changes)
    with pytest.raises(UserError, match=r"the tokenizer in .* cannot be loaded: it needs code from the model's"):
        load.load_tokenizer(model)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"eos_token_id": "</s>"}, "gives '</s>' as eos_token_id; give the token's number"),
        ({"eos_token_id": [1, "x"]}, r"gives \[1, 'x'\] as eos_token_id"),
        ({"cache_implementation": "nonsense"}, "cannot be used: Invalid `cache_implementation`"),
        ([], "cannot be used: "),
    ],
)
def test_generation_settings_that_cannot_be_used_are_named(model: ModelFolder, content: Any, words: str) -> None:
    (model.path / "generation_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"spec\.model\.uri: .*generation_config\.json {words}"):
        load.check_generation_config(model)


@pytest.mark.parametrize(
    "content", ["{not JSON", "{}", '{"eos_token_id": [2, 3], "temperature": 0.6}', '{"eos_token_id": null}', None]
)
def test_other_generation_settings_are_no_fault(model: ModelFolder, content: str | None) -> None:
    file = model.path / "generation_config.json"
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_text(content)
    load.check_generation_config(model)
