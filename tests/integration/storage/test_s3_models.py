"""A model in S3 without its weights, as the check of a job fetches it."""

from pathlib import Path

import numpy as np
import pytest
from promptintern.errors import UserError
from promptintern.models.describe import described_model
from promptintern.models.load import load_config, load_tokenizer
from promptintern.storage.options import S3Options
from promptintern.storage.store import Store, open_store
from safetensors.numpy import save

from tests.tiny import write_tiny_model

COUNT = 100_000


@pytest.fixture
def model(s3_bucket: str, s3_options: S3Options, tmp_path: Path) -> Store:
    """A model with another file of weights, none of which is zero."""
    store = open_store(f"s3://{s3_bucket}/model", s3=s3_options)
    for path in write_tiny_model(tmp_path).iterdir():
        if path.is_file():
            store.write(path.name, path.read_bytes())
    store.write("extra.safetensors", save({"unused": np.ones(COUNT, dtype=np.float32)}))
    return store


def test_the_weights_stay_in_the_storage(model: Store, s3_options: S3Options) -> None:
    with described_model(model.uri, s3=s3_options) as folder:
        assert load_config(folder).model_type
        load_tokenizer(folder)
        sizes = {path.name: path.stat().st_size for path in folder.path.iterdir()}
        content = (folder.path / "extra.safetensors").read_bytes()
    assert sizes == model.sizes()
    assert content[-4 * COUNT :] == bytes(4 * COUNT), "a hole in place of the weights"
    assert not folder.path.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no safetensors file, or is cut off"),
        (b"\xff" * 8, "is no safetensors file, or is cut off"),
        (save({"a": np.ones(9, dtype=np.float32)})[:-1], "is cut off"),
        (save({"a": np.ones(9, dtype=np.float32)}) + b"x", "has more than its header says"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n", "is a Git LFS pointer"),
    ],
)
def test_damaged_weights_are_named(model: Store, s3_options: S3Options, content: bytes, words: str) -> None:
    model.write("model.safetensors", content)
    with pytest.raises(UserError, match=words) as raised, described_model(model.uri, s3=s3_options):
        pass
    assert raised.value.problems[0].where == "spec.model.uri"
    assert f"{model.uri}/model.safetensors" in str(raised.value)
