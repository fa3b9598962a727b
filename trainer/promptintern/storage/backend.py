"""The operations that every kind of storage provides. All other storage code is the same for all kinds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

TEMPORARY = ".tmp-"
"""Prefix of the names of unfinished files. They are never listed, and no path may contain such a name."""


class Backend(Protocol):
    """Stores bytes under '/'-separated keys. Every method retries by itself and may be called from any thread.

    Raises (all methods):
        UserError: if the storage does not exist or denies access.
        RunFailed: if it kept failing until the deadline, or has no space left.
    """

    def uri(self, key: str) -> str:
        """Return the URI of ``key``. The empty key is the root."""

    def get(self, key: str) -> bytes:
        """Return the content. Raise ``FileNotFoundError`` if it does not exist."""

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the content in chunks. Raise ``FileNotFoundError`` if it does not exist."""

    def put(self, key: str, data: bytes) -> None:
        """Create or replace the file. A reader sees either all of the old content or all of the new."""

    def put_file(self, local: Path, key: str) -> None:
        """Create or replace the file with the content of a local file, copied in chunks."""

    def create(self, key: str, data: bytes) -> bool:
        """Create ``key`` unless it exists. Of any number of callers, exactly one gets True."""

    def size(self, key: str) -> int | None:
        """Return the size in bytes, or None if the file does not exist."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of every file below ``folder`` by key; the empty string means all files."""

    def delete(self, key: str) -> None:
        """Remove the file ``key`` and all files below the folder ``key``, if they exist."""
