"""What can be told about a base model from the files in its folder, before any weights are loaded.

Files that strangers uploaded are parsed as data, and their headers are bounded.
"""

import json
import struct
from pathlib import Path
from typing import Any

from promptintern.errors import UserError

_ADAPTER_PREFIX = "adapter_"
"""The beginning of the names of an adapter's files: its config and its weights."""
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The largest header that the format allows."""
_MAX_INDEX_BYTES = 256 * 2**20
_QUANTIZED_DTYPES = ("I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2")
_QUANTIZED_NAMES = (".qweight", ".qzeros", ".absmax", ".quant_map", ".weight_packed", ".SCB", "_blocks", "_scales")


def check_folder(path: Path, field: str) -> None:
    """Check that the folder at ``path`` holds a base model whose weights can be trained.

    Raises:
        UserError: at ``field``, with the name of the file that is at fault.
    """
    names = sorted(p.name for p in path.iterdir())
    adapter = next((name for name in names if name.startswith(_ADAPTER_PREFIX)), None)
    if adapter is not None:
        # transformers would load the adapter on top of the weights without a word.
        raise UserError.at(
            field,
            f"{path} contains {adapter}, so it holds a LoRA adapter; give the folder of a base model without one "
            "(`promptintern export RUN --merged DIR` writes one that has an adapter merged into it)",
        )
    if "config.json" not in names:
        raise UserError.at(field, f"{path} contains no config.json")
    try:
        config = json.loads((path / "config.json").read_text())
    except (ValueError, RecursionError) as error:
        raise UserError.at(field, f"{path / 'config.json'} cannot be read: {error}") from None
    if (method := _quantization(config)) is not None:
        raise UserError.at(
            field,
            f"{path / 'config.json'} says that the weights are quantized already ({method}), and LoRA is trained only "
            "on weights in float32 or bfloat16; give the model from which this one was quantized",
        )
    weights = [name for name in names if name.endswith(".safetensors") and not name.startswith("consolidated")]
    if not weights:
        pickled = [name for name in names if name.endswith(_PICKLE_SUFFIXES)]
        if pickled:
            raise UserError.at(
                field,
                f"{path} contains pickled weights ({pickled[0]}), which are not loaded because they can run code; "
                "convert them to safetensors with save_pretrained",
            )
        raise UserError.at(field, f"{path} contains no *.safetensors weights")
    _check_weights(path, weights, field)


def _quantization(config: Any) -> str | None:
    """Return the method by which the weights of a model, or of a part of it, are quantized; None if they are not."""
    if not isinstance(config, dict):
        return None
    for name in ("quantization_config", "compression_config"):
        if settings := config.get(name):
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            return f"{name}: {str(method or 'of an unknown method')[:40]}"
    parts = (value for name, value in config.items() if name.endswith("_config"))
    return next((method for part in parts if (method := _quantization(part)) is not None), None)


def _check_weights(path: Path, names: list[str], field: str) -> None:
    """Check the headers of all files with weights, and the index against them."""
    tensors: dict[str, str] = {}
    for name in names:
        for tensor, dtype in _tensors_of(path / name, field).items():
            tensors[tensor] = name
            if dtype in _QUANTIZED_DTYPES or tensor.endswith(_QUANTIZED_NAMES):
                raise UserError.at(
                    field,
                    f"{path / name} holds quantized weights ({tensor[:120]}, {dtype}), and LoRA is trained only on "
                    "weights in float32 or bfloat16; give the model from which this one was quantized",
                )
    if (path / _INDEX).exists():
        _check_index(path / _INDEX, tensors, field)


def _tensors_of(file: Path, field: str) -> dict[str, str]:
    """Return the dtype of each tensor in a safetensors file, by name, from the file's header alone.

    The header is 8 bytes with the length of a JSON object, and the object itself: for each tensor, its dtype, its shape
    and the range of its bytes after the header.
    """
    size = file.stat().st_size
    with file.open("rb") as content:
        first = content.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise UserError.at(field, f"{file} is no safetensors file, or is cut off: it has {size:,} bytes")
        try:
            header = json.loads(content.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
            dtypes = {name: str(entry["dtype"]) for name, entry in entries.items()}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise UserError.at(field, f"{file} is no safetensors file: its header is damaged") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        what = "is cut off" if size < expected else "has more than its header says"
        raise UserError.at(
            field, f"{file} {what}: it has {size:,} bytes, and its header describes {expected:,}; fetch the file again"
        )
    return dtypes


def _check_index(index: Path, tensors: dict[str, str], field: str) -> None:
    """Check that the files that the index names exist, and hold the tensors that it says they hold."""
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError("it is too large")
        listed = json.loads(index.read_text())["weight_map"]
        pairs = [(str(name), str(file)) for name, file in listed.items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError.at(field, f"{index} cannot be read: {error}") from None
    present = set(tensors.values())
    for name, file in pairs:
        if file not in present:
            raise UserError.at(field, f"{index} names {file[:200]}, which is missing; fetch the model again")
        if tensors.get(name) != file:
            raise UserError.at(
                field, f"{index} says that {file} holds {name[:200]}, which it does not; the files are of two models"
            )
