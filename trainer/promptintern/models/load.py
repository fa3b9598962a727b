"""Loading the tokenizer, the configuration and the weights of a base model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from promptintern_api.model import Dtype
from torch import nn

from promptintern.errors import RunFailed, UserError
from promptintern.models.compare import check_tensors
from promptintern.models.fetch import FIELD, ModelFolder
from promptintern.models.weights import read_headers

DTYPES = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16}


def load_tokenizer(folder: ModelFolder, *, field: str = FIELD) -> Any:
    """Load the model's fast tokenizer and set it up for left padding.

    Raises:
        UserError: if the tokenizer cannot be loaded, is not a fast tokenizer, or has no end token.
    """
    from transformers import AutoTokenizer

    config = load_config(folder, field=field)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder.path, config=config, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # noqa: BLE001 -- every loader fails in its own way; the user needs the field
        reason = _reason(error)
        if not (folder.path / "tokenizer.json").exists():
            reason = "tokenizer.json is missing; load the tokenizer where it works, and save it with save_pretrained"
        raise UserError.at(field, f"the tokenizer in {folder.path} cannot be loaded: {reason}") from None
    if not tokenizer.is_fast:
        raise UserError.at(field, f"the tokenizer in {folder.path} is not a fast tokenizer (tokenizer.json is missing)")
    if tokenizer.eos_token_id is None:
        raise UserError.at(field, f"the tokenizer in {folder.path} has no end-of-text token (eos_token)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def vocabulary_size(config: Any) -> int | None:
    """Return the number of tokens for which the model of ``config`` has embeddings, or None if the config is silent."""
    rows = getattr(config.get_text_config(), "vocab_size", None)
    return rows if isinstance(rows, int) else None


def check_vocabulary(tokenizer: Any, config: Any, *, field: str = FIELD) -> None:
    """Check that the model has an embedding for each token of its tokenizer, other than added tokens that no text has.

    Raises:
        UserError: if it has not, as in a folder with the tokenizer of another model.
    """
    rows = vocabulary_size(config)
    if rows is None:
        return
    special = {"end": tokenizer.eos_token_id, "beginning": tokenizer.bos_token_id, "padding": tokenizer.pad_token_id}
    for name, token in special.items():
        if token is not None and token >= rows:
            raise UserError.at(
                field,
                f"the {name} token of the tokenizer has the id {token}, and the model has embeddings for {rows} tokens "
                "(config.json, vocab_size); the tokenizer belongs to another model, or the embeddings were not resized",
            )
    added = set(tokenizer.added_tokens_decoder)
    beyond = {text: token for text, token in tokenizer.get_vocab().items() if token >= rows and token not in added}
    if beyond:
        text, token = max(beyond.items(), key=lambda item: item[1])
        raise UserError.at(
            field,
            f"the tokenizer has {len(beyond)} tokens without an embedding, such as {text[:40]!r} with the id {token}: "
            f"the model has embeddings for {rows} tokens (config.json, vocab_size); the tokenizer belongs to another "
            "model",
        )


def load_base_model(folder: ModelFolder, *, dtype: torch.dtype, device: torch.device, field: str = FIELD) -> nn.Module:
    """Load the causal language model in ``folder``, frozen and without dropout.

    Raises:
        UserError: if the folder contains no causal language model of transformers, or the weights do not fit
            the configuration, or are not finite.
        RunFailed: if ``device`` has too little memory for the model.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(folder, field=field)
    check_generation_config(folder, field=field)
    _disable_dropout(config)
    check_tensors(
        empty_model(config, field=field), read_headers(folder.path, field), where=str(folder.path), field=field
    )
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder.path,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 -- as above
        raise UserError.at(field, f"the model in {folder.path} cannot be loaded: {_reason(error)}") from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError.at(
            field,
            f"the weights in {folder.path} lack {len(missing)} of the model's tensors; the first is {missing[0]}",
        )
    model.requires_grad_(requires_grad=False)
    try:
        result: nn.Module = model.to(device)
    except torch.OutOfMemoryError:
        raise RunFailed(
            f"{device} has too little memory for the model in {folder.path}; use a larger device or a smaller model, "
            "or set spec.model.dtype: bfloat16"
        ) from None
    _check_finite(result, folder, field)
    return result


def _check_finite(model: nn.Module, folder: ModelFolder, field: str) -> None:
    """Refuse weights that are infinite or not a number; every loss would be, too."""
    weights = dict(model.named_parameters())
    # A sum needs no memory, and is not finite if one of its numbers is not. An infinite sum of finite numbers is rare.
    sums = torch.stack([weight.sum(dtype=torch.float32) for weight in weights.values()]).isfinite().tolist()
    for (name, weight), is_finite in zip(weights.items(), sums, strict=True):
        if not is_finite and not bool(weight.isfinite().all()):
            raise UserError.at(
                field,
                f"the weights in {folder.path} contain numbers that are not finite (inf or nan, in {name}); fetch the "
                "model again, or give another one",
            )


def _disable_dropout(config: Any) -> None:
    """Set every dropout rate in ``config`` to 0, because a packed row must not depend on the other rows of its pack.

    Call this function before the model is built from ``config``; a built model keeps its own copies of the rates.
    """
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
        elif hasattr(value, "to_dict"):  # the configuration of a submodel
            _disable_dropout(value)


def context_length(model_config: Any) -> int | None:
    """Return the maximum sequence length of the model in tokens, or None if its configuration does not state it."""
    text_config = model_config.get_text_config() if hasattr(model_config, "get_text_config") else model_config
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        value = getattr(text_config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def key_value_bytes(model: Any) -> int | None:
    """Return the memory in bytes of the keys and values of one token, or None if the configuration does not say it.

    It is 2 x layers x heads of keys x size of a head x bytes of a number.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    layers, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if not (heads and layers and width):
        return None
    size = getattr(config, "head_dim", None) or width // config.num_attention_heads
    return int(2 * layers * heads * size * model.dtype.itemsize)


def empty_model(config: Any, *, field: str = FIELD) -> nn.Module:
    """Build a causal language model from ``config`` on the meta device, where weights have shapes but no values.

    Raises:
        UserError: if the configuration does not describe a causal language model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    kind, language = config.model_type, config.get_text_config()
    if config.is_encoder_decoder:
        raise UserError.at(field, f"is not a causal language model: {kind} is an encoder with a decoder")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        if language is not config:
            raise UserError.at(
                field,
                f"is not a causal language model: {kind} is a composite model (of text and images, for example); save "
                f"its language model ({language.model_type}) alone, or give a model of text only",
            )
        raise UserError.at(field, f"is not a causal language model: config.json says that it is of the kind {kind}")
    try:
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 -- as above
        raise UserError.at(
            field, f"config.json describes a model that cannot be built: {_reason(error)}{_place_of(error, config)}"
        ) from None
    # BERT and its kin have such an attribute, and it is false unless config.json says is_decoder.
    directions = [
        getattr(module, name)
        for module in model.modules()
        for name in ("is_causal", "is_decoder")
        if hasattr(module, name)
    ]
    if getattr(config, "is_decoder", None) is False and directions and not any(directions):
        raise UserError.at(
            field,
            f"is not causal: in {kind}, a token sees the tokens after it (config.json, is_decoder); give a model that "
            "was trained to write text",
        )
    return model


def _place_of(error: Exception, config: Any) -> str:
    """Return where config.json names the unknown value that ``error`` is about, or nothing if it does not."""
    if isinstance(error, KeyError) and error.args:
        parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
        for settings in (parameters, *parameters.values()):
            if isinstance(settings, dict) and settings.get("rope_type") == error.args[0]:
                return " is an unknown rope_type"
    return ""


def load_config(folder: ModelFolder, *, field: str = FIELD) -> Any:
    """Load the model's configuration, without its weights.

    Raises:
        UserError: if the configuration cannot be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001 -- as above
        raise UserError.at(field, f"{folder.path / 'config.json'} cannot be read: {_reason(error)}") from None


def check_generation_config(folder: ModelFolder, *, field: str = FIELD) -> None:
    """Check that transformers can use the model's generation_config.json, if there is one.

    Raises:
        UserError: if it cannot, or if a special token is not given by its id.
    """
    from transformers import GenerationConfig

    file = folder.path / "generation_config.json"
    if not file.exists():
        return
    try:
        config = GenerationConfig.from_pretrained(folder.path, local_files_only=True)
    except OSError:  # it is no JSON, and transformers loads the model without it
        return
    except Exception as error:  # noqa: BLE001 -- as above
        raise UserError.at(field, f"{file} cannot be used: {_reason(error)}; correct or remove it") from None
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name)
        ids = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(token, int) for token in ids):
            raise UserError.at(field, f"{file} gives {value!r} as {name}; give the token's number, or remove it")


def custom_code_warnings(folder: ModelFolder, config: Any) -> list[str]:
    """Return a warning if the model comes with code of its own, which is not used."""
    stated = json.loads((folder.path / "config.json").read_text())
    if not stated.get("auto_map"):
        return []
    return [
        "config.json of the base model names code of its own (auto_map), which is never run: the model of the kind "
        f"{config.model_type} of transformers is trained, and may differ from it"
    ]


def _reason(error: Exception) -> str:
    """Return the message of ``error`` in one line, or the name of its type if the message is empty."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return (
            "it needs code from the model's repository, and such code is never run; give a model of a kind that "
            "transformers itself has"
        )
    return text[:300] or type(error).__name__


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into evaluation mode and disable gradients inside the block, and restore both afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
