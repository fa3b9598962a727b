"""Base models are fetched completely, identified by digest, and loaded without dropout."""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from promptintern import digest as digest_module
from promptintern.errors import InfrastructureFailed, UserError
from promptintern.models import load
from promptintern.models.fetch import ModelFolder, fetch_model
from promptintern.models.load import load_base_model
from promptintern.storage.store import open_store

from tests.tiny import write_tiny_model


def test_a_model_that_changed_in_s3_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tiny_model(tmp_path / "source")
    store = open_store(source.as_uri())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("promptintern.storage.store.open_store", lambda _uri, **_: store)
    first = fetch_model("s3://bucket/model")
    weights = bytearray((source / "model.safetensors").read_bytes())
    weights[-2:] = b"\1\1"
    (source / "model.safetensors").write_bytes(weights)
    second = fetch_model("s3://bucket/model")
    assert (second.path / "model.safetensors").read_bytes() == weights
    assert first.digest() != second.digest()


def test_a_model_of_another_kind_is_refused_by_its_config() -> None:
    from transformers import T5Config

    with pytest.raises(UserError, match=r"spec\.model\.uri: is not a causal language model"):
        load.empty_model(T5Config())


def folder(path: Path) -> ModelFolder:
    return ModelFolder(uri=path.as_uri(), path=path)


def test_workers_that_fetch_the_same_model_at_once_all_get_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tiny_model(tmp_path / "source")
    (source / "consolidated.safetensors").write_bytes(b"x")
    store = open_store(source.as_uri())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("promptintern.storage.store.open_store", lambda _uri, **_: store)
    with ThreadPoolExecutor(4) as pool:
        fetched = list(pool.map(lambda _: fetch_model("s3://bucket/model"), range(4)))
    assert {f.path for f in fetched} == {fetched[0].path}
    names = {p.name for p in source.iterdir()} - {"consolidated.safetensors"}
    assert {p.name for p in fetched[0].path.iterdir()} == names
    assert [p.name for p in fetched[0].path.parent.iterdir()] == [fetched[0].path.name]
    load_base_model(fetched[0], dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("size", [1000, 20 * 2**20])
def test_every_byte_counts_and_nothing_else(tmp_path: Path, size: int) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "config.json").write_text("{}")
    (first / "model.safetensors").write_bytes(bytes(size))
    shutil.copytree(first, tmp_path / "copy")
    (tmp_path / "copy/README.md").write_text("words")
    digest = folder(first).digest()
    assert folder(tmp_path / "copy").digest() == digest
    for position in (0, size // 3, size - 1):
        with (first / "model.safetensors").open("r+b") as weights:
            weights.seek(position)
            weights.write(b"\1")
            weights.flush()
            assert folder(first).digest() != digest
            weights.seek(position)
            weights.write(b"\0")
        assert folder(first).digest() == digest
    (first / "config.json").rename(first / "generation_config.json")
    assert folder(first).digest() != digest


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reads, real = tmp_path / "model.safetensors", list[str](), hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: reads.append(file.name) or real(file, name))
    model.write_bytes(b"a" * 100)
    assert folder(tmp_path).digest() == folder(tmp_path).digest()
    assert len(reads) == 2, "a file that has just changed may change again within the resolution of its times"
    monkeypatch.setattr(digest_module, "_SETTLED_SECONDS", -1)
    before = folder(tmp_path).digest()
    assert folder(tmp_path).digest() == before
    assert len(reads) == 3
    stat = model.stat()
    model.write_bytes(b"b" * 100)
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert folder(tmp_path).digest() != before, "the time of the last change of the inode cannot be set"


def test_the_cached_folder_of_a_model_depends_on_its_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tiny_model(tmp_path / "source")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stores = {name: open_store(shutil.copytree(source, tmp_path / name).as_uri()) for name in ("a", "b")}
    monkeypatch.setattr("promptintern.storage.store.open_store", lambda uri, **_: stores[uri[-1]])
    assert fetch_model("s3://bucket/a").path != fetch_model("s3://bucket/b").path


def other_config(name: str) -> Any:
    import transformers

    small = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    match name:
        case "opt":
            return transformers.OPTConfig(
                **small, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32
            )
        case "gpt_bigcode":
            return transformers.GPTBigCodeConfig(**small, n_embd=32, n_layer=2, n_head=4)
        case "gpt2":
            return transformers.GPT2Config(**small, n_embd=32, n_layer=2, n_head=4)
    raise ValueError(name)


@pytest.mark.parametrize("name", ["opt", "gpt_bigcode", "gpt2"])
def test_training_mode_drops_nothing_of_the_base(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    config = other_config(name)
    drops = [field for field, value in vars(config).items() if "drop" in field and isinstance(value, float) and value]
    assert drops, "the architecture has no dropout by default, so it shows nothing here"
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_base_model(folder(tmp_path), dtype=torch.float32, device=torch.device("cpu")).train()
    ids = torch.arange(3, 30)[None]
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UserError, match="http://a/b starts with none of sample://, file://, s3://, hf://"):
        fetch_model("http://a/b")


def test_weights_have_shapes_only_in_an_empty_model(tmp_path: Path) -> None:
    config = load.load_config(folder(write_tiny_model(tmp_path)))
    assert {p.device.type for p in load.empty_model(config).parameters()} == {"meta"}


class _Answer:
    """The response in a hub's error."""

    def __init__(self, status: int) -> None:
        self.status_code = status


def _answered(status: int) -> Exception:
    error = ConnectionError(f"{status}")
    error.response = _Answer(status)  # type: ignore[attr-defined]
    return error


def _wrapped(cause: Exception) -> Exception:
    from huggingface_hub.errors import LocalEntryNotFoundError

    error = LocalEntryNotFoundError("there is no cached snapshot")
    error.__cause__ = cause
    return error


def _unreached() -> Exception:
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    error: Exception = HTTPError("no route to the proxy")
    return error


def _offline() -> Exception:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return OfflineModeIsEnabled("HF_HUB_OFFLINE=1")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (_answered(503), InfrastructureFailed),
        (_answered(429), InfrastructureFailed),
        (_answered(403), UserError),
        (_answered(404), UserError),
        (_wrapped(_answered(503)), InfrastructureFailed),
        (_wrapped(_answered(404)), UserError),
        (_wrapped(ConnectionError("reset by peer")), InfrastructureFailed),
        (_wrapped(_offline()), UserError),
        (_unreached(), InfrastructureFailed),
        (TimeoutError("timed out"), InfrastructureFailed),
        (OSError(28, "No space left on device"), UserError),
    ],
)
def test_a_hub_that_is_away_is_not_the_jobs_mistake(
    raised: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(kind, match=r"spec\.model\.uri: team/model could not be fetched") as caught:
        fetch_model("hf://team/model")
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config: gptq"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config: fp8"),
        ({"quantization_config": {"load_in_8bit": True}}, "of an unknown method"),
        ({"quantization_config": "awq"}, "of an unknown method"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "quantization_config: awq"),
    ],
)
def test_weights_that_are_quantized_already_are_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = write_tiny_model(tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=r"spec\.model\.uri: .*config\.json says that the weights are quantized") as no:
        fetch_model(path.as_uri())
    assert named in str(no.value)


@pytest.mark.parametrize("change", [{"quantization_config": None}, {"quantization_config": {}}, {"text_config": None}])
def test_empty_settings_of_quantization_are_none(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write_tiny_model(tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | change))
    assert fetch_model(path.as_uri()).path == path


@pytest.mark.parametrize("beside_weights", [True, False])
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_is_no_base_model(tmp_path: Path, name: str, beside_weights: bool) -> None:
    path = write_tiny_model(tmp_path / "model") if beside_weights else tmp_path
    (path / name).write_bytes(b"{}")
    with pytest.raises(UserError, match=rf"spec\.model\.uri: .* contains {name}, so it holds a LoRA adapter"):
        fetch_model(path.as_uri())


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    found = folder(write_tiny_model(tmp_path))
    tokenizer, config = load.load_tokenizer(found), load.load_config(found)
    load.check_vocabulary(tokenizer, config)
    config.vocab_size = 200
    with pytest.raises(UserError, match=r"has 59 tokens without an embedding, such as .* with the id 258"):
        load.check_vocabulary(tokenizer, config)
    config.vocab_size = 2
    with pytest.raises(UserError, match="the end token of the tokenizer has the id 2"):
        load.check_vocabulary(tokenizer, config)


def test_added_tokens_that_no_text_has_need_no_embedding(tmp_path: Path) -> None:
    found = folder(write_tiny_model(tmp_path))
    tokenizer, config = load.load_tokenizer(found), load.load_config(found)
    tokenizer.add_tokens(["<never used>"])
    load.check_vocabulary(tokenizer, config)


def test_the_context_of_a_composite_model_is_that_of_its_language_model() -> None:
    from transformers import LlavaConfig

    config = LlavaConfig(text_config={"model_type": "llama", "max_position_embeddings": 77})
    assert load.context_length(config) == 77
