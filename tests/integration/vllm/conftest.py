"""A model, and a Python program whose environment has the stand-in for vLLM."""

import sys
from pathlib import Path

import pytest

from tests.tiny import write_tiny_model


@pytest.fixture(scope="session")
def vllm_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program. It is no isolated Python, because the stand-in is found by an environment variable."""
    program = tmp_path_factory.mktemp("program") / "python"
    stand_in = Path(__file__).with_name("stand_in")
    program.write_text(f'#!/bin/sh\nshift\nPYTHONPATH="{stand_in}" exec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))
