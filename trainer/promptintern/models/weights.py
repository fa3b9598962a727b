"""Which files hold a model's weights, and what their headers say about each tensor.

Files that strangers uploaded are parsed as data, and their headers are bounded.
"""

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from promptintern.errors import UserError

MAX_HEADER_BYTES = 100_000_000
"""The largest header that the format allows."""
WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MAX_INDEX_BYTES = 256 * 2**20
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """A tensor as the header of its file describes it; ``dtype`` is a name of the format, such as ``BF16``."""

    file: str
    dtype: str
    shape: tuple[int, ...]


def read_headers(path: Path, field: str) -> dict[str, TensorHeader]:
    """Return the header of each tensor, by name, in the files that transformers loads from the folder at ``path``.

    Raises:
        UserError: at ``field``, if there are no such files, or one of them, or the index, is damaged.
    """
    names = sorted(p.name for p in path.iterdir())
    shards = [name for name in names if _SHARD.fullmatch(name)]
    if WEIGHTS in names:
        if shards:
            raise UserError.at(
                field,
                f"{path} contains two sets of weights, {WEIGHTS} and {shards[0]}; remove the one that is not the "
                "model's",
            )
        return _read_header(path / WEIGHTS, field)
    if _INDEX in names:
        listed = _read_index(path / _INDEX, field)
        files = sorted(set(listed.values()))
        missing = next((file for file in files if file not in names), None)
        if missing is not None:
            raise UserError.at(field, f"{path / _INDEX} names {missing[:200]}, which is missing; fetch the model again")
        tensors = {name: header for file in files for name, header in _read_header(path / file, field).items()}
        for name, file in listed.items():
            if name not in tensors or tensors[name].file != file:
                raise UserError.at(
                    field,
                    f"{path / _INDEX} says that {file} holds {name[:200]}, which it does not; the files are of two "
                    "models",
                )
        return tensors
    raise UserError.at(field, f"{path} contains neither {WEIGHTS} nor {_INDEX}{_advise_on(names, shards)}")


def _advise_on(names: Sequence[str], shards: Sequence[str]) -> str:
    """Return what to do about the files that are there instead of weights that can be loaded."""
    others = [name for name in names if name.endswith(".safetensors")]
    pickled = [name for name in names if name.endswith(_PICKLE_SUFFIXES)]
    gguf = [name for name in names if name.endswith(".gguf")]
    if shards:
        return f", which tells that {shards[0]} belongs to the model; fetch the index as well"
    if others:
        return f", only {others[0]}, which transformers does not load; fetch or save the model in its format"
    if pickled:
        return (
            f", only pickled weights ({pickled[0]}), which are not loaded because they can run code; convert them to "
            "safetensors with save_pretrained"
        )
    if gguf:
        return f", only {gguf[0]}; LoRA is not trained on GGUF files, so give the model from which it was converted"
    return ""


def check_no_pointer(file: Path, field: str) -> None:
    """Check that ``file`` is not what Git LFS leaves in the place of a file that was not fetched.

    Raises:
        UserError: at ``field``, if it is.
    """
    with file.open("rb") as content:
        if content.read(40).startswith(b"version https://git-lfs.github.com/spec/"):
            raise UserError.at(
                field, f"{file} is a Git LFS pointer, not the file itself; run `git lfs pull` in the model's repository"
            )


def _read_header(file: Path, field: str) -> dict[str, TensorHeader]:
    """Return what the header of a safetensors file says about each of its tensors, by name.

    The header is 8 bytes with the length of a JSON object, and the object itself: for each tensor, its dtype, its shape
    and the range of its bytes after the header.
    """
    if not file.is_file():
        what = "a folder" if file.is_dir() else "a link to a file that is missing"
        raise UserError.at(field, f"{file} is {what}, not a file with weights; fetch the model again")
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
            tensors = {
                name: TensorHeader(
                    file=file.name, dtype=str(entry["dtype"]), shape=tuple(int(size) for size in entry["shape"])
                )
                for name, entry in entries.items()
            }
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise UserError.at(field, f"{file} is no safetensors file: its header is damaged") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        what = "is cut off" if size < expected else "has more than its header says"
        raise UserError.at(
            field, f"{file} {what}: it has {size:,} bytes, and its header describes {expected:,}; fetch the file again"
        )
    return tensors


def _read_index(index: Path, field: str) -> dict[str, str]:
    """Return the name of the file that holds each tensor, by the tensor's name."""
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError("it is too large")
        listed = json.loads(index.read_text())["weight_map"]
        return {str(name): str(file) for name, file in listed.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError.at(field, f"{index} cannot be read: {error}") from None
