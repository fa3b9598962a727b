"""Unpacks data files that are compressed with gzip or Zstandard, while they are read."""

import io
from typing import IO, Any, cast

import pyarrow as pa

_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))
_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")
_BUFFER = 2**20


def unpacked(file: Any) -> IO[bytes]:
    """Return a reader of the unpacked content of ``file``, or ``file`` itself if it is not compressed.

    What is compressed is known by the first bytes, whatever the name of the file is. The reader can only go forward. A
    damaged file raises ``OSError`` while it is read.

    Args:
        file: A binary reader that can ``peek``.
    """
    first = file.peek(4)
    codec = next((name for magic, name in _MAGIC if first.startswith(magic)), None)
    if codec is None:
        return cast("IO[bytes]", file)
    stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec)
    return cast("IO[bytes]", io.BufferedReader(_Raw(stream), _BUFFER))


def plain_name(uri: str) -> str:
    """Return ``uri`` in lower case, without the suffix of a compression."""
    name = uri.lower()
    return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)


class _Raw(io.RawIOBase):
    """An unbuffered reader of a stream of Arrow."""

    def __init__(self, stream: pa.CompressedInputStream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        content = self._stream.read(len(view))
        view[: len(content)] = content
        return len(content)
