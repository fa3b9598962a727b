"""Finding and loading the base model: from a hub, an S3 prefix, a folder or the shipped sample."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from torch import nn

from promptintern.errors import UserError
from promptintern.sample import sample_model_path
from promptintern.storage.options import S3Options

FIELD = "spec.model.uri"
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""Files of a model folder that are data: configuration, weights as safetensors, tokenizer, chat template."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A base model on this machine."""

    uri: str
    path: Path

    def digest(self) -> str:
        """SHA-256 over names, sizes and small files: it changes when the model does, without reading all weights."""
        total = hashlib.sha256()
        for file in sorted(p for p in self.path.iterdir() if p.is_file()):
            total.update(f"{file.name}:{file.stat().st_size};".encode())
            if file.stat().st_size < 32 * 2**20:
                total.update(file.read_bytes())
        return total.hexdigest()


def cache_root() -> Path:
    """Where downloads and caches of this program live."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promptintern"


def fetch_model(uri: str, *, s3: S3Options | None = None, field: str = FIELD) -> ModelFolder:
    """The folder of the model at ``uri``, downloaded if need be.

    Raises:
        UserError: at ``field``, if there is no such model, or its weights are not safetensors.
    """
    scheme = urlsplit(uri).scheme
    fetch: Callable[[str, S3Options | None, str], Path] = {
        "sample": lambda u, _s, _f: sample_model_path(u),
        "file": _local,
        "s3": _from_s3,
        "hf": _from_hub,
    }[scheme]
    path = fetch(uri, s3, field)
    _check(path, field)
    return ModelFolder(uri=uri, path=path)


def _local(uri: str, _s3: S3Options | None, field: str) -> Path:
    path = Path(unquote(uri.removeprefix("file://")))
    if not path.is_dir():
        raise UserError.at(field, f"{path} is no folder; give the folder that save_pretrained wrote")
    return path


def _from_s3(uri: str, s3: S3Options | None, field: str) -> Path:
    from promptintern.storage.store import open_store

    store = open_store(uri, s3=s3)
    target = cache_root() / "models" / hashlib.sha256(f"{uri}|{s3}".encode()).hexdigest()[:16]
    names = [name for name in store.list() if "/" not in name and Path(name).match("*.*")]
    wanted = [name for name in names if any(Path(name).match(pattern) for pattern in _WANTED)]
    if not names:
        raise UserError.at(field, f"nothing is stored under {uri}")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in wanted or names:
        store.download(name, target / name)
    return target


def _from_hub(uri: str, _s3: S3Options | None, field: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    name, _, revision = uri.removeprefix("hf://").partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_WANTED)))
    except GatedRepoError:
        raise UserError.at(
            field, f"{name} is gated: accept its terms and set HF_TOKEN (spec.model.secretRef)"
        ) from None
    except RepositoryNotFoundError:
        raise UserError.at(
            field, f"there is no model {name}@{revision or 'main'}, or the token may not see it"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError.at(field, f"{name} could not be fetched from its hub: {error}") from None
    except ValueError as error:  # the hub's own check of a repository's name
        raise UserError.at(field, str(error)) from None


def _check(path: Path, field: str) -> None:
    names = sorted(p.name for p in path.iterdir())
    if "config.json" not in names:
        raise UserError.at(field, f"{path} holds no config.json")
    try:
        json.loads((path / "config.json").read_text())
    except ValueError as error:
        raise UserError.at(field, f"{path / 'config.json'} cannot be read: {error}") from None
    if not any(name.endswith(".safetensors") for name in names):
        pickled = [name for name in names if name.endswith(_PICKLES)]
        if pickled:
            raise UserError.at(
                field,
                f"{path} holds pickled weights ({pickled[0]}), which can run code and are not read; load and save them "
                "again with save_pretrained, which writes safetensors",
            )
        raise UserError.at(field, f"{path} holds no *.safetensors weights")


def load_tokenizer(folder: ModelFolder, *, field: str = FIELD) -> Any:
    """The model's fast tokenizer, set up for left padding.

    Raises:
        UserError: if it cannot be loaded, is no fast one, or has no end token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001 -- every loader fails in its own way; the user needs the field
        raise UserError.at(field, f"the tokenizer in {folder.path} cannot be loaded: {_first_line(error)}") from None
    if not tokenizer.is_fast:
        raise UserError.at(field, f"the tokenizer in {folder.path} is no fast one (tokenizer.json is missing)")
    if tokenizer.eos_token_id is None:
        raise UserError.at(field, f"the tokenizer in {folder.path} has no end-of-text token (eos_token)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_base_model(folder: ModelFolder, *, dtype: torch.dtype, device: torch.device, field: str = FIELD) -> nn.Module:
    """The causal language model in ``folder``, frozen and without dropout.

    Raises:
        UserError: if the folder holds no causal language model of transformers, or its weights do not fit its config.
    """
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder.path,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 -- as above
        raise UserError.at(field, f"the model in {folder.path} cannot be loaded: {_first_line(error)}") from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError.at(
            field,
            f"the weights in {folder.path} lack {len(missing)} of the model's tensors, first {missing[0]}",
        )
    model.requires_grad_(requires_grad=False)
    _without_dropout(model)
    result: nn.Module = model.to(device)
    return result


def _without_dropout(model: nn.Module) -> None:
    """Base dropout off, also in training mode: packed rows must not depend on what stands beside them."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout_p", "hidden_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def context_length(model_config: Any) -> int | None:
    """Longest sequence in tokens that the model was built for, or None where its config does not say."""
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        value = getattr(model_config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def load_config(folder: ModelFolder, *, field: str = FIELD) -> Any:
    """The model's configuration, without its weights."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001 -- as above
        raise UserError.at(field, f"{folder.path / 'config.json'} cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
