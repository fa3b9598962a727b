"""Compares the tensors in a model's files with those of the model that its config.json describes.

transformers itself loads tensors without values, so that its renamed, converted and tied weights are no faults.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from promptintern.errors import UserError
from promptintern.models.weights import TensorHeader

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""The dtypes of weights. Tensors of other dtypes are masks and counters, or weights that are quantized."""
_QUANTIZED_NAMES = (".qweight", ".qzeros", ".absmax", ".quant_map", ".weight_packed", ".SCB", "_blocks", "_scales")
_OTHER_TASKS = re.compile(r"For\w*Classification$|ForQuestionAnswering$|Reward|ForMultipleChoice$")


def check_tensors(model: nn.Module, headers: Mapping[str, TensorHeader], *, where: str, field: str) -> None:
    """Check that the files of a model hold the tensors of ``model``, which is on the meta device.

    Args:
        headers: The headers of the tensors in the files, by name.
        where: The folder of the files as the user knows it, for error messages.

    Raises:
        UserError: at ``field``, with the file, the tensor and both shapes, if a tensor is missing, is quantized, has
            another shape, or is that of a layer or a head that the model does not have.
    """
    report = _loading_report(model, headers)
    if report is None:
        return
    expected = {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}
    missing = sorted(name for name in report["missing_keys"] if name in expected)
    mismatched = sorted(report["mismatched_keys"])
    if missing or mismatched:
        quantized = next((name for name, header in headers.items() if _is_quantized(name, header)), None)
        if quantized is not None:
            raise UserError.at(
                field,
                f"{where}/{headers[quantized].file} holds quantized weights ({quantized[:120]}, "
                f"{headers[quantized].dtype}), and LoRA is trained only on weights in float32 or bfloat16; give the "
                "model from which this one was quantized",
            )
    if mismatched:
        raise UserError.at(field, _describe_mismatch(mismatched, headers, where))
    if missing:
        raise UserError.at(
            field,
            f"the weights in {where} lack tensors of the model that config.json describes (missing: {len(missing)}); "
            f"the first is {missing[0]}, with the shape {list(expected[missing[0]])}{_name_task(model)}; give a "
            "causal language model with all its weights",
        )
    _check_unexpected(model, sorted(report["unexpected_keys"]), expected, headers, where=where, field=field)


def _loading_report(model: nn.Module, headers: Mapping[str, TensorHeader]) -> Mapping[str, Any] | None:
    """Return which tensors transformers misses, or finds with another shape, or does not use.

    Return None if it cannot load tensors without values into this model; the weights themselves may still fit.
    """
    kind: Any = type(model)
    try:
        tensors = {
            name: torch.empty(header.shape, dtype=_DTYPES[header.dtype], device="meta")
            for name, header in headers.items()
            if header.dtype in _DTYPES
        }
        _, report = kind.from_pretrained(
            None,
            config=model.config,
            state_dict=tensors,
            dtype=torch.float32,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception:  # noqa: BLE001 -- a conversion may need values; loading the weights decides then
        return None
    loaded: Mapping[str, Any] = report
    return loaded


def _is_quantized(name: str, header: TensorHeader) -> bool:
    return name.endswith(_QUANTIZED_NAMES) or (header.dtype not in _DTYPES and name.endswith(".weight"))


def _describe_mismatch(mismatched: list[tuple[str, Any, Any]], headers: Mapping[str, TensorHeader], where: str) -> str:
    """Return a message about tensors that have another shape in the files than in the model."""
    name, shape, expected = mismatched[0]
    stored = next((n for n in headers if n == name or n.endswith(f".{name}") or name.endswith(f".{n}")), None)
    file = f"{where}/{headers[stored].file}" if stored is not None else where
    if 0 in shape:
        advice = "the model was saved without its weights, as DeepSpeed ZeRO-3 does; gather the weights and save again"
    else:
        advice = "the two files belong to different models, or config.json was changed; make them agree"
    return (
        f"{file} holds {stored or name} with the shape {list(shape)}, where config.json describes a model with "
        f"{list(expected)} (tensors that differ: {len(mismatched)}); {advice}"
    )


def _check_unexpected(
    model: nn.Module,
    unexpected: list[str],
    expected: Mapping[str, Any],
    headers: Mapping[str, TensorHeader],
    *,
    where: str,
    field: str,
) -> None:
    """Refuse layers beyond the last layer of the model, and the head of another task.

    Other tensors that the model does not use are no fault: many files hold buffers, or the parts of a model that sees
    images.
    """
    config: Any = model.config
    layers = {re.sub(r"\.\d+\.", ".#.", name) for name in expected}
    parts = {name for name, _ in model.named_modules()}
    task = _name_task(model)
    for name in unexpected:
        file = f"{where}/{headers[name].file}" if name in headers else where
        layer = re.match(r".*?\.\d+(?=\.)", name)
        is_extra = layer is not None and layer[0] not in parts and re.sub(r"\.\d+\.", ".#.", name) in layers
        # Layers that predict further tokens follow the last layer, and are not used.
        if is_extra and not getattr(config.get_text_config(), "num_nextn_predict_layers", 0):
            assert layer is not None
            raise UserError.at(
                field,
                f"{file} holds {name}, and the model that config.json describes has no {layer[0]}: it would lack "
                "layers; correct the number of layers in config.json, or fetch it again",
            )
        if task and not hasattr(model, name.partition(".")[0]):
            raise UserError.at(
                field, f"{file} holds {name}, which a language model does not have{task}; give a causal language model"
            )


def _name_task(model: nn.Module) -> str:
    """Return a clause that names the class of the model if config.json names one for another task, else nothing."""
    config: Any = model.config
    names = [name for name in config.architectures or () if _OTHER_TASKS.search(name)]
    return f" (config.json says that the weights are those of {names[0]})" if names else ""
