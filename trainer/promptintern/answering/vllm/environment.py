"""Where vLLM is, and the environment variables of its process."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from promptintern.advice import VLLM_PYTHON, install_vllm
from promptintern.errors import UserError

FIELD = "spec.evaluation.engine"
_SECRET_BEGINNINGS = ("AWS_", "HF_", "HUGGING_FACE_")


def find_vllm() -> Path:
    """Return the Python program that can import vLLM.

    Raises:
        UserError: at ``FIELD``, if there is none.
    """
    named = os.environ.get(VLLM_PYTHON)
    if named:
        if not os.access(named, os.X_OK) or not Path(named).is_file():
            raise UserError.at(FIELD, f"{VLLM_PYTHON} names {named}, which is not a program")
        return Path(named)
    if importlib.util.find_spec("vllm") is None:
        raise UserError.at(FIELD, f"vLLM is not installed here; {install_vllm()}, or set the field to PyTorch")
    return Path(sys.executable)


def vllm_environment(inherited: Mapping[str, str], device: torch.device, files: Path) -> dict[str, str]:
    """Return the environment variables for vLLM on ``device``, which may write to the folder ``files``.

    vLLM asks nobody over the network and gets no credentials, because the model is in a local folder.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith(_SECRET_BEGINNINGS)}
    kept |= {
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
