"""How the model card names the base model, in code and in commands."""

import shlex
import subprocess

import pytest
from promptintern.pipeline.model_card import base_model
from promptintern.sample import MODEL_URI, sample_model_path


@pytest.mark.parametrize(
    ("uri", "name", "revision", "where"),
    [
        ("hf://org/model", "org/model", None, None),
        ("hf://org/model@v1.0", "org/model", "v1.0", None),
        ("file:///models/a%20b", "/models/a b", None, "was in the folder `/models/a b`"),
        ("s3://bucket/models/a", "FOLDER_OF_THE_BASE_MODEL", None, "stored under `s3://bucket/models/a`. Copy it"),
        (MODEL_URI, "FOLDER_OF_THE_BASE_MODEL", None, "part of the Python package promptintern"),
    ],
)
def test_the_base_model_is_named_so_that_it_can_be_loaded(
    uri: str, name: str, revision: str | None, where: str | None
) -> None:
    base = base_model(uri)
    assert (base.name, base.revision) == (name, revision)
    assert base.is_on_hub == (where is None)
    if where is not None:
        assert base.where is not None
        assert where in base.where


def test_the_command_that_prints_the_sample_models_folder_does_so() -> None:
    sentence = base_model(MODEL_URI).where
    assert sentence is not None
    (command,) = [text for text in sentence.split("`") if text.startswith("python ")]
    printed = subprocess.run(shlex.split(command), check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(sample_model_path(MODEL_URI))
