"""What can be told about a base model from the files in its folder, before any weights are loaded."""

import json
from pathlib import Path
from typing import Any

from promptintern.errors import UserError
from promptintern.models.weights import check_no_pointer, read_headers

_ADAPTER_PREFIX = "adapter_"
"""The beginning of the names of an adapter's files: its config and its weights."""
_POINTER_SUFFIXES = (".json", ".safetensors", ".model")


def check_folder(path: Path, field: str) -> None:
    """Check that the folder at ``path`` holds a base model, with weights that transformers loads.

    Raises:
        UserError: at ``field``, with the name of the file that is at fault.
    """
    files = sorted(path.iterdir())
    adapter = next((file.name for file in files if file.name.startswith(_ADAPTER_PREFIX)), None)
    if adapter is not None:
        # transformers would load the adapter on top of the weights without a word.
        raise UserError.at(
            field,
            f"{path} contains {adapter}, so it holds a LoRA adapter; give the folder of a base model without one "
            "(`promptintern export RUN --merged DIR` writes one that has an adapter merged into it)",
        )
    for file in files:
        if file.name.endswith(_POINTER_SUFFIXES) and file.is_file():
            check_no_pointer(file, field)
    config_file = path / "config.json"
    if config_file not in files:
        raise UserError.at(field, f"{path} contains no config.json")
    try:
        config = json.loads(config_file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError.at(field, f"{config_file} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise UserError.at(field, f"{config_file} holds no JSON object; fetch the file again")
    if (method := _quantization(config)) is not None:
        raise UserError.at(
            field,
            f"{config_file} says that the weights are quantized already ({method}), and LoRA is trained only "
            "on weights in float32 or bfloat16; give the model from which this one was quantized",
        )
    read_headers(path, field)


def _quantization(config: Any) -> str | None:
    """Return the method by which the weights of a model, or of a part of it, are quantized; None if they are not."""
    if not isinstance(config, dict):
        return None
    for name in ("quantization_config", "compression_config", "quantization"):  # the last is MLX's
        if settings := config.get(name):
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            return f"{name}: {str(method or 'of an unknown method')[:40]}"
    parts = (value for name, value in config.items() if name.endswith("_config"))
    return next((method for part in parts if (method := _quantization(part)) is not None), None)
