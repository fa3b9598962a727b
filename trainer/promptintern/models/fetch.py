"""Fetching a base model from a hub, an S3 prefix, a folder or the shipped sample."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from promptintern.digest import digest_of_files
from promptintern.errors import UserError
from promptintern.hub import hub_errors
from promptintern.models.folder import check_folder
from promptintern.sample import sample_model_path
from promptintern.storage.options import S3Options
from promptintern.uris import display_uri

if TYPE_CHECKING:
    from promptintern.storage.store import Store

FIELD = "spec.model.uri"
_MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""The name patterns of a model's data files: configuration, safetensors weights, tokenizer and chat template."""
_DUPLICATE_WEIGHTS = ("*/*", "consolidated*.safetensors")
"""The name patterns of second copies of the weights in other formats, which some models on hubs contain."""


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A base model on this machine."""

    uri: str
    path: Path

    def digest(self) -> str:
        """Return a SHA-256 of the names, the sizes and every byte of the files that can be loaded."""
        return digest_of_files(p for p in self.path.iterdir() if p.is_file() and is_model_file(p.name))


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
    check_folder(path, field)
    return ModelFolder(uri=uri, path=path)


def _local_folder(uri: str, _s3: S3Options | None, field: str) -> Path:
    path = Path(display_uri(uri))
    if not path.is_dir():
        raise UserError.at(field, f"{path} is not a folder; give the folder that save_pretrained wrote")
    return path


def _from_s3(uri: str, s3: S3Options | None, field: str) -> Path:
    from promptintern.storage.store import open_store

    store = open_store(uri, s3=s3)
    return _download(store, [*model_files_in_s3(store, field)], cache_root() / "models")


def model_files_in_s3(store: "Store", field: str) -> dict[str, int]:
    """Return the sizes of a model's files in S3 by name. If there are none, return those of all files.

    Raises:
        UserError: at ``field``, if nothing is stored there.
    """
    sizes = {name: size for name, size in store.sizes().items() if "/" not in name}
    if not sizes:
        raise UserError.at(field, f"nothing is stored under {store.uri}")
    return {name: size for name, size in sizes.items() if is_model_file(name)} or sizes


def is_model_file(name: str) -> bool:
    """Return whether ``name`` is that of a file that is loaded with a model."""
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
    return snapshot(uri, field)


def hub_name(uri: str) -> tuple[str, str | None]:
    """Return the name and the revision of a model on a hub; the revision is None if the URI names none."""
    name, _, revision = uri.removeprefix("hf://").partition("@")
    return name, revision or None


def snapshot(uri: str, field: str, *, without: Sequence[str] = ()) -> Path:
    """Return the folder with the files of a model on a hub, except for those that match a pattern in ``without``.

    Raises:
        UserError: at ``field``, if the model does not exist or may not be read.
        InfrastructureFailed: if the hub does not respond.
    """
    from huggingface_hub import snapshot_download

    name, revision = hub_name(uri)
    with hub_errors(field, f"the model {name}@{revision or 'main'}", name=name):
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(_MODEL_FILES),
                ignore_patterns=[*_DUPLICATE_WEIGHTS, *without],
            )
        )
