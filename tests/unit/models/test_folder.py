"""What the files of a base model tell before its weights are loaded: one fault at a time, with the file's name."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
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
    ("name", "tensor"),
    [
        ("layer.weight", torch.zeros(4, dtype=torch.int8)),
        ("layer.weight", torch.zeros(4, dtype=torch.uint8)),
        ("layer.weight", torch.zeros(4, dtype=torch.float8_e4m3fn)),
        ("layer.qweight", torch.zeros(4, dtype=torch.int32)),
        ("layer.weight.absmax", torch.zeros(4)),
        ("layer.SCB", torch.zeros(4)),
    ],
)
def test_quantized_weights_are_known_without_a_config_that_says_so(
    model: Path, name: str, tensor: torch.Tensor
) -> None:
    save_file({**load_file(model / "model.safetensors"), name: tensor}, model / "model.safetensors")
    message = refused(model)
    assert "holds quantized weights" in message and name in message


def test_integers_that_are_no_weights_are_no_fault(model: Path) -> None:
    more = {"model.position_ids": torch.arange(4), "model.mask": torch.ones(4, dtype=torch.bool)}
    save_file({**load_file(model / "model.safetensors"), **more}, model / "model.safetensors")
    check_folder(model, FIELD)


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
