"""A base model without its weights: all other files, and of each file with weights only the header.

A check of a job needs no more, and a model may have many gigabytes.
"""

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from promptintern.errors import UserError
from promptintern.hub import hub_errors
from promptintern.models.fetch import (
    FIELD,
    ModelFolder,
    fetch_model,
    hub_name,
    is_model_file,
    model_files_in_s3,
    snapshot,
)
from promptintern.models.folder import check_folder
from promptintern.models.weights import MAX_HEADER_BYTES
from promptintern.storage.options import S3Options

_WEIGHTS = ".safetensors"


@contextmanager
def described_model(uri: str, *, s3: S3Options | None = None, field: str = FIELD) -> Iterator[ModelFolder]:
    """Provide a folder with the files of the model at ``uri``, of which those with weights hold only their headers.

    After its header, each of these files is a hole of the right length. A model on this machine is not copied.

    Raises:
        UserError: at ``field``, if the model does not exist, or cannot be trained as far as its files tell.
        InfrastructureFailed: if the storage or the hub of the model does not respond.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in ("s3", "hf"):
        yield fetch_model(uri, s3=s3, field=field)
        return
    with tempfile.TemporaryDirectory(prefix="promptintern-model-") as temporary:
        folder = Path(temporary)
        if scheme == "s3":
            _describe_s3(uri, folder, s3, field)
        else:
            _describe_hub(uri, folder, field)
        try:
            check_folder(folder, field)
        except UserError as error:
            raise UserError.at(field, str(error.problems[0].message).replace(temporary, uri)) from None
        yield ModelFolder(uri=uri, path=folder)


def _describe_s3(uri: str, folder: Path, s3: S3Options | None, field: str) -> None:
    from promptintern.storage.store import open_store

    store = open_store(uri, s3=s3)
    for name, size in model_files_in_s3(store, field).items():
        if not name.endswith(_WEIGHTS):
            store.download(name, folder / name)
            continue
        first = store.beginning(name, 8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        # A damaged length is left to the check, which names the file.
        _write_hole(folder / name, store.beginning(name, 8 + min(length, MAX_HEADER_BYTES)), size)


def _describe_hub(uri: str, folder: Path, field: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    name, revision = hub_name(uri)
    copied = snapshot(uri, field, without=[f"*{_WEIGHTS}"])
    for file in copied.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    with hub_errors(field, f"the model {name}@{revision or 'main'}", name=name):
        api = HfApi()
        paths = api.list_repo_files(name, revision=revision)
        for path in (path for path in paths if path.endswith(_WEIGHTS) and is_model_file(path)):
            try:
                metadata = api.parse_safetensors_file_metadata(name, path, revision=revision)
            except SafetensorsParsingError:
                raise UserError.at(field, f"{uri}/{path} is no safetensors file: its header is damaged") from None
            header: dict[str, Any] = {
                tensor: {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": list(entry.data_offsets)}
                for tensor, entry in metadata.tensors.items()
            }
            content = json.dumps(header).encode()
            end = max((entry.data_offsets[1] for entry in metadata.tensors.values()), default=0)
            _write_hole(folder / path, struct.pack("<Q", len(content)) + content, 8 + len(content) + end)


def _write_hole(file: Path, beginning: bytes, size: int) -> None:
    with file.open("wb") as content:
        content.write(beginning)
        content.truncate(size)
