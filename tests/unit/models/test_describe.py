"""A model without its weights, on a hub: what is fetched, and that the check finds the same as with all weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from promptintern.errors import UserError
from promptintern.models.describe import described_model
from promptintern.models.load import load_config, load_tokenizer
from safetensors.numpy import save

from tests.fake_hub import FakeHub, ask, running
from tests.tiny import write_tiny_model

DESCRIBE = """
import json, sys
from promptintern.errors import UserError
from promptintern.models.describe import described_model
from promptintern.models.load import load_config, load_tokenizer
try:
    with described_model(sys.argv[1]) as folder:
        files = {path.name: path.stat().st_size for path in folder.path.iterdir()}
        kind = load_config(folder).model_type
        load_tokenizer(folder)
    print(json.dumps({"files": files, "kind": kind, "is_kept": folder.path.exists()}))
except UserError as error:
    print(json.dumps({"problem": str(error)}))
"""
LARGE = 2_000_000


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """The files of a small model, with a large tensor in a second file with weights."""
    folder = write_tiny_model(tmp_path / "model")
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return contents | {"extra.safetensors": save({"unused": np.zeros(LARGE, dtype=np.float32)})}


def test_of_a_file_with_weights_only_the_header_is_fetched(files: dict[str, bytes], tmp_path: Path) -> None:
    hub = FakeHub({"acme/model": {"main": files}})
    with running(hub) as endpoint:
        described = ask(endpoint, tmp_path / "home", DESCRIBE, "hf://acme/model")
    assert described["kind"] == json.loads(files["config.json"])["model_type"]
    assert described["files"]["extra.safetensors"] >= 4 * LARGE
    assert not described["is_kept"]
    assert hub.sent["extra.safetensors"] < 200_000
    assert hub.sent["config.json"] == len(files["config.json"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("adapter_config.json", b"{}", "hf://acme/model contains adapter_config.json"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is no safetensors file"),
        ("model-00001-of-00002.safetensors", save({"a": np.zeros(8)}), "contains two sets of weights"),
        ("config.json", b"{", "config.json cannot be read"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_uri_of_the_model(
    files: dict[str, bytes], tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    hub = FakeHub({"acme/model": {"main": files | {name: content}}})
    with running(hub) as endpoint:
        problem = ask(endpoint, tmp_path / "home", DESCRIBE, "hf://acme/model")["problem"]
    assert problem.startswith("spec.model.uri: hf://acme/model")
    assert words in problem


def test_a_model_on_this_machine_is_not_copied(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    with described_model(folder.as_uri()) as described:
        assert described.path == folder
        assert load_config(described).model_type
        load_tokenizer(described)
    with pytest.raises(UserError, match="is not a folder"), described_model((tmp_path / "none").as_uri()):
        pass
