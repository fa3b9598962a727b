"""Fetching and loading a base model from a hub, an S3 prefix, a folder or the shipped sample."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from promptintern_api.model import Dtype
from torch import nn

from promptintern.advice import set_hub_token
from promptintern.digest import digest_of_files
from promptintern.errors import InfrastructureFailed, RunFailed, UserError, first_line
from promptintern.sample import sample_model_path
from promptintern.storage.options import S3Options
from promptintern.storage.retry import is_transient_status
from promptintern.uris import display_uri

if TYPE_CHECKING:
    from promptintern.storage.store import Store

FIELD = "spec.model.uri"
DTYPES = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16}
_MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""The name patterns of a model's data files: configuration, safetensors weights, tokenizer and chat template."""
_DUPLICATE_WEIGHTS = ("*/*", "consolidated*.safetensors")
"""The name patterns of second copies of the weights in other formats, which some models on hubs contain."""
_ADAPTER_PREFIX = "adapter_"
"""The beginning of the names of an adapter's files: its config and its weights."""
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A base model on this machine."""

    uri: str
    path: Path

    def digest(self) -> str:
        """Return a SHA-256 of the names, the sizes and every byte of the files that can be loaded."""
        return digest_of_files(p for p in self.path.iterdir() if p.is_file() and _is_model_file(p.name))


def cache_root() -> Path:
    """Return the folder in which this program keeps downloads and caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promptintern"


def fetch_model(uri: str, *, s3: S3Options | None = None, field: str = FIELD) -> ModelFolder:
    """Return the folder of the model at ``uri``; download the model if necessary.

    Raises:
        UserError: at ``field``, if the model does not exist, or its weights are not safetensors.
        InfrastructureFailed: if the storage or the hub of the model does not respond.
    """
    fetches: dict[str, Callable[[str, S3Options | None, str], Path]] = {
        "sample": lambda u, _s, _f: sample_model_path(u),
        "file": _local_folder,
        "s3": _from_s3,
        "hf": _from_hub,
    }
    fetch = fetches.get(urlsplit(uri).scheme)
    if fetch is None:
        raise UserError.at(field, f"{uri} starts with none of {', '.join(f'{scheme}://' for scheme in fetches)}")
    path = fetch(uri, s3, field)
    _check_folder(path, field)
    return ModelFolder(uri=uri, path=path)


def _local_folder(uri: str, _s3: S3Options | None, field: str) -> Path:
    path = Path(display_uri(uri))
    if not path.is_dir():
        raise UserError.at(field, f"{path} is not a folder; give the folder that save_pretrained wrote")
    return path


def _from_s3(uri: str, s3: S3Options | None, field: str) -> Path:
    from promptintern.storage.store import open_store

    store = open_store(uri, s3=s3)
    sizes = {name: size for name, size in store.sizes().items() if "/" not in name}
    if not sizes:
        raise UserError.at(field, f"nothing is stored under {uri}")
    return _download(store, [name for name in sizes if _is_model_file(name)] or [*sizes], cache_root() / "models")


def _is_model_file(name: str) -> bool:
    path = Path(name)
    return any(map(path.match, _MODEL_FILES)) and not any(map(path.match, _DUPLICATE_WEIGHTS))


def _download(store: "Store", names: Sequence[str], root: Path) -> Path:
    """Download the model's files ``names`` to a folder in ``root`` that is named after URI and digest, and return it.

    The folder appears only when it is complete, because several workers on one machine may fetch the same model at
    the same time. A model that has changed since the last fetch gets another folder.
    """
    partial = root / f"partial-{uuid.uuid4().hex}"
    try:
        for name in names:
            store.download(name, partial / name)
        digest = ModelFolder(uri=store.uri, path=partial).digest()
        target = root / hashlib.sha256(f"{store.uri}\n{digest}".encode()).hexdigest()[:32]
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # if it exists, another process was faster
                raise
        return target
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _from_hub(uri: str, _s3: S3Options | None, field: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.errors import HTTPError as HubError  # type: ignore[attr-defined]  # its HTTP client's error

    name, _, revision = uri.removeprefix("hf://").partition("@")
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=list(_MODEL_FILES),
                ignore_patterns=list(_DUPLICATE_WEIGHTS),
            )
        )
    except GatedRepoError:
        raise UserError.at(field, f"{name} is gated: accept its terms, and {set_hub_token()}") from None
    except RepositoryNotFoundError:
        raise UserError.at(
            field, f"the model {name}@{revision or 'main'} does not exist, or the token has no access to it"
        ) from None
    except (HubError, OSError) as error:
        message = f"{name} could not be fetched from its hub: {error}"
        raise (
            InfrastructureFailed(f"{field}: {message}") if _is_transient(error) else UserError.at(field, message)
        ) from None
    except ValueError as error:  # the hub's client found the repository's name invalid
        raise UserError.at(field, str(error)) from None


def _is_transient(error: Exception) -> bool:
    """Return whether ``error``, or the cause that the hub's client wrapped, means that the hub may soon respond."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError):
        return isinstance(error.__cause__, Exception) and _is_transient(error.__cause__)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return is_transient_status(status)
    if isinstance(error, OfflineModeIsEnabled):
        return False
    return not isinstance(error, OSError) or isinstance(error, ConnectionError | TimeoutError)


def _check_folder(path: Path, field: str) -> None:
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
    if not any(name.endswith(".safetensors") for name in names):
        pickled = [name for name in names if name.endswith(_PICKLE_SUFFIXES)]
        if pickled:
            raise UserError.at(
                field,
                f"{path} contains pickled weights ({pickled[0]}), which are not loaded because they can run code; "
                "convert them to safetensors with save_pretrained",
            )
        raise UserError.at(field, f"{path} contains no *.safetensors weights")


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


def load_tokenizer(folder: ModelFolder, *, field: str = FIELD) -> Any:
    """Load the model's fast tokenizer and set it up for left padding.

    Raises:
        UserError: if the tokenizer cannot be loaded, is not a fast tokenizer, or has no end token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001 -- every loader fails in its own way; the user needs the field
        raise UserError.at(field, f"the tokenizer in {folder.path} cannot be loaded: {first_line(error)}") from None
    if not tokenizer.is_fast:
        raise UserError.at(field, f"the tokenizer in {folder.path} is not a fast tokenizer (tokenizer.json is missing)")
    if tokenizer.eos_token_id is None:
        raise UserError.at(field, f"the tokenizer in {folder.path} has no end-of-text token (eos_token)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_base_model(folder: ModelFolder, *, dtype: torch.dtype, device: torch.device, field: str = FIELD) -> nn.Module:
    """Load the causal language model in ``folder``, frozen and without dropout.

    Raises:
        UserError: if the folder contains no causal language model of transformers, or the weights do not fit
            the configuration.
        RunFailed: if ``device`` has too little memory for the model.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(folder, field=field)
    _disable_dropout(config)
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
        raise UserError.at(field, f"the model in {folder.path} cannot be loaded: {first_line(error)}") from None
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
    return result


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
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        value = getattr(model_config, name, None)
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
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 -- as above
        raise UserError.at(field, f"is not a causal language model: {first_line(error)[:200]}") from None
    return model


def load_config(folder: ModelFolder, *, field: str = FIELD) -> Any:
    """Load the model's configuration, without its weights.

    Raises:
        UserError: if the configuration cannot be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001 -- as above
        raise UserError.at(field, f"{folder.path / 'config.json'} cannot be read: {first_line(error)}") from None


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
