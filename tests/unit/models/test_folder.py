"""What the files of a base model tell before its weights are loaded: one fault at a time, with the file's name."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.errors import UserError
from promptintern.models.folder import check_folder
from safetensors.torch import load_file, save_file

from tests.tiny import write_tiny_model

FIELD = "spec.model.uri"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


@pytest.fixture
def sharded(model: Path) -> Path:
    """A model whose weights are in two files with an index."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    weight_map = {}
    for number, half in enumerate(halves, start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in half}, model / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(half, file)
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return model


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        check_folder(path, FIELD)
    (problem,) = error.value.problems
    assert problem.where == FIELD
    return problem.message


def rewrite(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header of a safetensors file, or what stands in its place."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = change(json.loads(content[8 : 8 + length]))
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def test_good_folders_are_accepted(model: Path) -> None:
    check_folder(model, FIELD)


def test_good_shards_are_accepted(sharded: Path) -> None:
    check_folder(sharded, FIELD)


@pytest.mark.parametrize("left", [0, 5, 8, 100, -1])
def test_a_file_that_is_cut_off_is_named(model: Path, left: int) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    message = refused(model)
    assert "model.safetensors" in message and "cut off" in message


def test_a_file_with_more_than_its_header_says_is_named(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert "has more than its header says" in refused(model)


@pytest.mark.parametrize(
    "header",
    [b"not JSON", b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b'{"a": {"dtype": "F32", "data_offsets": [0]}}'],
)
def test_a_damaged_header_is_named(model: Path, header: bytes) -> None:
    rewrite(model / "model.safetensors", lambda _header: header)
    assert "its header is damaged" in refused(model)


def test_a_header_that_nests_deeply_is_data(model: Path) -> None:
    rewrite(model / "model.safetensors", lambda _header: b"[" * 200_000)
    assert "its header is damaged" in refused(model)


@pytest.mark.parametrize("length", [0, 2**62, 2**64 - 1])
def test_a_length_that_cannot_be_is_no_allocation(model: Path, length: int) -> None:
    file = model / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    assert "no safetensors file" in refused(model)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    assert "names model-00002-of-00002.safetensors, which is missing" in refused(sharded)


def test_shards_of_two_models_are_told_apart(sharded: Path) -> None:
    file = sharded / "model-00002-of-00002.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    save_file({f"other.{n}": t for n, t in tensors.items()}, file)
    assert f"says that {file.name} holds {name}, which it does not" in refused(sharded)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 7}', "[" * 100_000])
def test_a_damaged_index_is_named(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json cannot be read" in refused(sharded)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model-00001-of-00002.safetensors", "which tells that model-00001-of-00002.safetensors belongs to the model"),
        ("model.fp16.safetensors", "only model.fp16.safetensors, which transformers does not load"),
        ("pytorch_model.safetensors", "only pytorch_model.safetensors, which transformers does not load"),
        ("consolidated.safetensors", "only consolidated.safetensors, which transformers does not load"),
        ("model-Q4_K_M.gguf", "only model-Q4_K_M.gguf; LoRA is not trained on GGUF files"),
        ("pytorch_model.bin", "only pickled weights (pytorch_model.bin), which are not loaded because they can run"),
        ("notes.txt", "contains neither model.safetensors nor model.safetensors.index.json"),
    ],
)
def test_weights_that_transformers_does_not_load_are_named(model: Path, name: str, words: str) -> None:
    (model / "model.safetensors").rename(model / name)
    assert words in refused(model)


def test_two_sets_of_weights_are_named(sharded: Path) -> None:
    shutil.copyfile(sharded / "model-00001-of-00002.safetensors", sharded / "model.safetensors")
    message = refused(sharded)
    assert "two sets of weights, model.safetensors and model-00001-of-00002.safetensors" in message


def test_an_index_that_was_left_behind_is_no_fault(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    check_folder(model, FIELD)


def test_other_files_than_those_that_are_loaded_are_no_fault(model: Path) -> None:
    (model / "x.safetensors").mkdir()
    (model / "y.safetensors").symlink_to("nowhere")
    (model / "z.safetensors").write_bytes(b"damaged")
    check_folder(model, FIELD)


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_folder_or_a_broken_link_in_place_of_weights_is_named(model: Path, is_folder: bool) -> None:
    file = model / "model.safetensors"
    file.unlink()
    if is_folder:
        file.mkdir()
    else:
        file.symlink_to("nowhere")
    assert ("is a folder" if is_folder else "is a link to a file that is missing") in refused(model)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_named(model: Path, name: str) -> None:
    (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n")
    message = refused(model)
    assert f"{name} is a Git LFS pointer" in message and "git lfs pull" in message


@pytest.mark.parametrize("text", ["[]", "null", '"text"', "7"])
def test_a_config_that_is_no_object_is_named(model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    assert "config.json holds no JSON object" in refused(model)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_accepted(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text("{}")
        Path(folder, "model.safetensors").write_bytes(content)
        try:
            check_folder(Path(folder), FIELD)
        except UserError as error:
            assert "model.safetensors" in str(error)
