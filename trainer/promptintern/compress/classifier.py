"""Loads the token classification model that LLMLingua-2 needs."""

from pathlib import Path
from typing import Any

from promptintern.errors import UserError, first_line

FIELD = "spec.prompt.compressor.modelUri"


def load_classifier(path: Path) -> tuple[Any, Any]:
    """Load the token classification model in the folder ``path`` in float32 on the CPU, and its fast tokenizer.

    Raises:
        UserError: if the folder does not contain both the model and the tokenizer.
    """
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        model, info = AutoModelForTokenClassification.from_pretrained(
            path,
            dtype=torch.float32,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 -- every loader fails in its own way; the user needs the field
        raise UserError.at(FIELD, f"the token classifier in {path} cannot be loaded: {first_line(error)}") from None
    if info["missing_keys"]:
        raise UserError.at(
            FIELD,
            f"{path} contains no trained token classifier: its weights lack {sorted(info['missing_keys'])[0]}",
        )
    if not tokenizer.is_fast:
        raise UserError.at(FIELD, f"the tokenizer in {path} is not a fast tokenizer (tokenizer.json is missing)")
    return model.eval(), tokenizer
