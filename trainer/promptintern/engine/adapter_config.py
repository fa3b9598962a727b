"""Reading ``adapter_config.json``, the options with which PEFT is to load an adapter, as untrusted data.

PEFT has options that import modules, match regular expressions, read other files or enlarge the model. An adapter of
this program uses none of them. Therefore, PEFT never reads the file: it gets the options that passed the checks here.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from promptintern.errors import UserError

CONFIG = "adapter_config.json"
_MAX_BYTES = 4 * 2**20
_DEFAULTS = {"init_lora_weights": True, "megatron_core": "megatron.core", "qalora_group_size": 16}
"""PEFT's defaults of those other options that are neither null nor false nor empty."""
_ADVICE = (
    "only files as this program's trainer writes them are loaded. Train the adapter again, or check the file and load "
    "the adapter with PEFT yourself"
)

_Text = Annotated[str, StringConstraints(max_length=4096)]
_ModuleName = Annotated[str, StringConstraints(pattern=r"^[\w.-]+$", max_length=512)]
_NamePattern = Annotated[str, StringConstraints(pattern=r"^(\.\*\\\.)?[\w.-]+$", max_length=512)]
"""A module name, which may follow ``.*\\.``, the only expression that PEFT itself puts into a pattern."""
_Rank = Annotated[int, Field(ge=1, le=8192)]
_Alpha = Annotated[float, Field(gt=0, le=2**20)]


class AdapterConfig(BaseModel):
    """The options of a LoRA adapter of the trainer. All other options of PEFT must be off."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"]
    bias: Literal["none"] = "none"
    r: _Rank
    lora_alpha: _Alpha
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: list[_ModuleName]
    target_parameters: list[_ModuleName] | None = None
    rank_pattern: dict[_NamePattern, _Rank] = {}
    alpha_pattern: dict[_NamePattern, _Alpha] = {}
    fan_in_fan_out: bool = False
    """Whether the layers keep their weights the other way round, as GPT-2's do. PEFT sets this itself."""
    inference_mode: bool = True
    base_model_name_or_path: _Text | None = None
    """A text for other programs. The base model is the one that ``promptintern.json`` or the user names."""
    revision: _Text | None = None
    peft_version: _Text | None = None

    def peft_config(self) -> Any:
        """Return the ``LoraConfig`` for inference with this adapter."""
        from peft import LoraConfig

        return LoraConfig(
            task_type=self.task_type,
            bias=self.bias,
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.target_modules,
            target_parameters=self.target_parameters,
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=dict(self.alpha_pattern),
            fan_in_fan_out=self.fan_in_fan_out,
            inference_mode=True,
        )


def read_adapter_config(folder: Path, *, where: str) -> AdapterConfig:
    """Read and check ``adapter_config.json`` in ``folder``.

    Args:
        where: The place of the folder as the user knows it, for error messages.

    Raises:
        UserError: if the file is missing, is too large, or holds anything that the trainer does not write.
    """
    where = f"{where.rstrip('/')}/{CONFIG}"
    try:
        with (folder / CONFIG).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError.at(where, f"cannot be read ({error.strerror}); {_ADVICE}") from None
    if len(content) > _MAX_BYTES:
        raise UserError.at(where, f"has more than {_MAX_BYTES} bytes; {_ADVICE}")
    try:
        config = AdapterConfig.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        option = ".".join(str(part) for part in first["loc"])[:100]
        raise UserError.at(where, f"{option + ': ' if option else ''}{first['msg']}; {_ADVICE}") from None
    for option, value in sorted((config.model_extra or {}).items()):
        if not _is_off(option, value):
            raise UserError.at(where, f"sets {option[:100]!r}; {_ADVICE}")
    return config


def _is_off(option: str, value: object) -> bool:
    """Return whether ``option`` has no effect, because it has PEFT's default or, if PEFT has none, is empty."""
    if option in _DEFAULTS:
        return type(value) is type(_DEFAULTS[option]) and value == _DEFAULTS[option]
    return value is None or value is False or value in ("", [], {})  # 0 may be a layer
