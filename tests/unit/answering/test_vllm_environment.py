"""Where vLLM is, and what its process may know."""

import sys
from pathlib import Path

import pytest
import torch
from promptintern.advice import VLLM_PYTHON
from promptintern.answering.vllm.environment import find_vllm, vllm_environment
from promptintern.errors import UserError


def test_an_environment_without_vllm_is_a_fault_of_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VLLM_PYTHON, raising=False)
    with pytest.raises(UserError, match=f"spec.evaluation.engine: vLLM is not installed here.*{VLLM_PYTHON}"):
        find_vllm()
    for name in (tmp_path / "missing", tmp_path):
        monkeypatch.setenv(VLLM_PYTHON, str(name))
        with pytest.raises(UserError, match="which is not a program"):
            find_vllm()
    monkeypatch.setenv(VLLM_PYTHON, sys.executable)
    assert find_vllm() == Path(sys.executable)


@pytest.mark.parametrize(
    ("inherited", "index", "expected"), [({}, 1, "1"), ({"CUDA_VISIBLE_DEVICES": "4,7"}, 1, "7"), ({}, None, "0")]
)
def test_vllm_gets_the_workers_gpu(inherited: dict[str, str], index: int | None, expected: str, tmp_path: Path) -> None:
    device = torch.device("cuda", index) if index is not None else torch.device("cuda")
    assert vllm_environment(inherited, device, tmp_path)["CUDA_VISIBLE_DEVICES"] == expected


def test_vllm_gets_no_credentials(tmp_path: Path) -> None:
    inherited = {"AWS_SECRET_ACCESS_KEY": "a", "AWS_PROFILE": "b", "HF_TOKEN": "c", "PATH": "/bin"}
    given = vllm_environment(inherited, torch.device("cpu"), tmp_path)
    assert given["PATH"] == "/bin"
    assert not {"a", "b", "c"} & set(given.values())
    assert given["HOME"] == str(tmp_path)
