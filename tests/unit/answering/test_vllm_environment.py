"""Where vLLM is, and what its process may know."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from promptintern.advice import VLLM_PYTHON
from promptintern.answering.vllm.environment import VllmProgram, check_vllm_can_serve, find_vllm, vllm_environment
from promptintern.engine.adapter import attach_lora
from promptintern.errors import UserError
from promptintern_api.training import Lora

from tests.tiny import tiny_model


def test_an_environment_without_vllm_is_a_fault_of_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VLLM_PYTHON, raising=False)
    with pytest.raises(UserError, match=f"spec.evaluation.engine: vLLM is not installed here; .*{VLLM_PYTHON}"):
        find_vllm()
    monkeypatch.setenv(VLLM_PYTHON, sys.executable)
    with pytest.raises(UserError, match=f"not installed in the environment of {sys.executable}, which {VLLM_PYTHON}"):
        find_vllm()
    no_program = tmp_path / "text"
    no_program.touch(mode=0o755)
    for name in (tmp_path / "missing", tmp_path, no_program):
        monkeypatch.setenv(VLLM_PYTHON, str(name))
        with pytest.raises(UserError, match=f"{VLLM_PYTHON} names {name}, which does not run Python"):
            find_vllm()


def test_the_version_of_vllm_is_known_before_it_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    description = packages / "vllm-9.8.7.dist-info/METADATA"
    description.parent.mkdir()
    description.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 9.8.7\n")
    monkeypatch.setenv(VLLM_PYTHON, str(environment / "bin/python"))
    assert find_vllm() == VllmProgram(python=environment / "bin/python", version="9.8.7")


@pytest.mark.parametrize(
    ("lora", "dtype", "on_gpu", "fault"),
    [
        ({}, "float32", False, None),
        ({}, "bfloat16", True, None),
        ({}, "float32", True, "16-bit types.* make it bfloat16"),
        ({"r": 513}, "bfloat16", True, "rank up to 512; lower spec.training.lora.r"),
        ({"r": 512}, "bfloat16", True, None),
        ({"target_modules": "q_proj,lm_head"}, "float32", False, "no adapter of the output head"),
        ({"target_modules": "all-linear"}, "float32", False, None),
    ],
)
def test_what_vllm_cannot_serve_is_a_fault_of_the_job(
    lora: dict[str, Any], dtype: str, on_gpu: bool, fault: str | None
) -> None:
    adapter = attach_lora(tiny_model("llama"), Lora(**{"r": 4, "alpha": 8} | lora), seed=0)
    with nullcontext() if fault is None else pytest.raises(UserError, match=f"spec.evaluation.engine: vLLM .*{fault}"):
        check_vllm_can_serve(adapter, dtype=dtype, on_gpu=on_gpu)


@pytest.mark.parametrize(
    ("inherited", "index", "expected"), [({}, 1, "1"), ({"CUDA_VISIBLE_DEVICES": "4,7"}, 1, "7"), ({}, None, "0")]
)
def test_vllm_gets_the_workers_gpu(inherited: dict[str, str], index: int | None, expected: str, tmp_path: Path) -> None:
    device = torch.device("cuda", index) if index is not None else torch.device("cuda")
    assert vllm_environment(inherited, device, tmp_path)["CUDA_VISIBLE_DEVICES"] == expected


def test_vllm_gets_what_its_device_needs_and_no_credentials(tmp_path: Path) -> None:
    kept = {"PATH": "/bin", "LD_LIBRARY_PATH": "/lib", "CUDA_HOME": "/cuda", "OMP_NUM_THREADS": "2"}
    kept |= {"VLLM_CPU_KVCACHE_SPACE": "4", "NVIDIA_VISIBLE_DEVICES": "0"}
    secret = {"AWS_PROFILE": "a", "HF_TOKEN": "b", "VLLM_API_KEY": "c", "WANDB_API_KEY": "d", "DATABASE_URL": "e"}
    given = vllm_environment(kept | secret, torch.device("cpu"), tmp_path)
    assert {name: given.get(name) for name in kept} == kept
    assert not secret.keys() & given.keys()
    assert given["HOME"] == str(tmp_path)
