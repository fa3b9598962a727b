"""Where vLLM is, what it can do for a job, and the environment variables of its process."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from promptintern.advice import VLLM_PYTHON, install_vllm
from promptintern.engine.adapter import Adapter
from promptintern.errors import UserError

FIELD = "spec.evaluation.engine"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for the maximum rank of adapters."""
_ASK_VERSION = "import importlib.metadata as m; print(m.version('vllm'))"
_ASK_SECONDS = 60
_INHERITED = frozenset({"PATH", "TMPDIR", "LANG", "TZ", "CC", "CXX"})
_INHERITED_BEGINNINGS = ("CUDA_", "GOMP_", "HIP_", "HSA_", "LC_", "LD_", "NCCL_", "NVIDIA_", "OMP_", "ROC", "VLLM_")
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


@dataclass(frozen=True, kw_only=True)
class VllmProgram:
    """The Python program of an environment that has vLLM."""

    python: Path
    version: str
    """The version of vLLM."""


def find_vllm() -> VllmProgram:
    """Return the Python program that can import vLLM: that of ``PROMPTINTERN_VLLM_PYTHON``, or else this one.

    Raises:
        UserError: at ``FIELD``, if there is none.
    """
    named = os.environ.get(VLLM_PYTHON)
    program = Path(named or sys.executable)
    try:
        asked = subprocess.run(
            [program, "-I", "-c", _ASK_VERSION], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError.at(FIELD, f"{VLLM_PYTHON} names {program}, which does not run Python: {error}") from None
    if asked.returncode != 0:
        where = f"in the environment of {program}, which {VLLM_PYTHON} names" if named else "here"
        raise UserError.at(FIELD, f"vLLM is not installed {where}; {install_vllm()}, or set the field to PyTorch")
    return VllmProgram(python=program, version=asked.stdout.strip())


def check_vllm_can_serve(adapter: Adapter, *, dtype: str, on_gpu: bool) -> None:
    """Refuse what is known to fail in vLLM, before anything is trained.

    Args:
        dtype: The type of the base weights.
        on_gpu: Whether vLLM runs on a GPU. Its LoRA kernels for GPUs are written in Triton, for 16-bit types alone.

    Raises:
        UserError: at ``FIELD``.
    """
    fault = ""
    if on_gpu and dtype == "float32":
        fault = "applies adapters on a GPU only in 16-bit types, and spec.model.dtype is float32; make it bfloat16"
    elif adapter.highest_rank > RANKS[-1]:
        fault = f"serves adapters of a rank up to {RANKS[-1]}; lower spec.training.lora.r"
    elif adapter.is_on_head:
        fault = "serves no adapter of the output head; take the head out of spec.training.lora.targetModules"
    if fault:
        raise UserError.at(FIELD, f"vLLM {fault}, or set the field to PyTorch")


def vllm_environment(inherited: Mapping[str, str], device: torch.device, files: Path) -> dict[str, str]:
    """Return the environment variables for vLLM on ``device``, which may write to the folder ``files``.

    vLLM asks nobody over the network and gets no credentials, because the model is in a local folder.
    """
    kept = {name: value for name, value in inherited.items() if _is_inherited(name)} | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, whose end frees all memory
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(files),
        "XDG_CACHE_HOME": str(files / "cache"),
        "XDG_CONFIG_HOME": str(files / "config"),
    }
    if device.type == "cuda":
        visible = inherited.get("CUDA_VISIBLE_DEVICES", "").split(",")
        number = device.index or 0
        kept["CUDA_VISIBLE_DEVICES"] = visible[number] if visible != [""] else str(number)
    else:
        kept.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    return kept


def _is_inherited(name: str) -> bool:
    is_secret = any(word in name for word in _SECRET_WORDS)
    return name in _INHERITED or (name.startswith(_INHERITED_BEGINNINGS) and not is_secret)
