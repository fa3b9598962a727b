"""The operations that every kind of storage (local or S3) provides. Other storage code is the same for all kinds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

TEMPORARY = ".tmp-"
"""The prefix of the names of unfinished files. Such files are never listed, and no path may contain such a name."""


class Backend(Protocol):
    """A storage of files under '/'-separated keys. Every method retries on its own and may be called from any thread.

    Raises (all methods):
        UserError: if the storage does not exist or denies access.
        RunFailed: if requests kept failing until the deadline, or no space is left.
    """

    def uri(self, key: str) -> str:
        """Return the URI of ``key``. The empty key is the root."""

    def get(self, key: str) -> bytes:
        """Return the content of the file ``key``. Raise ``FileNotFoundError`` if the file does not exist."""

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the content of the file ``key`` in chunks. Raise ``FileNotFoundError`` if the file does not exist."""

    def beginning(self, key: str, count: int) -> bytes:
        """Return the first ``count`` bytes of the file ``key``, or the whole content if it is shorter.

        Raise ``FileNotFoundError`` if the file does not exist.
        """

    def put(self, key: str, data: bytes) -> None:
        """Create or replace the file ``key``. A reader sees either the whole old content or the whole new content."""

    def put_file(self, local: Path, key: str) -> None:
        """Create or replace the file ``key`` with the content of a local file, copied in chunks."""

    def create(self, key: str, data: bytes) -> bool:
        """Create the file ``key`` unless it exists. Return whether this call created it.

        If several callers create the same file, exactly one gets True.
        """

    def size(self, key: str) -> int | None:
        """Return the size of the file ``key`` in bytes, or None if the file does not exist."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of every file below ``folder``, by key; an empty ``folder`` means all files."""

    def delete(self, key: str) -> None:
        """Remove the file ``key`` and all files below the folder ``key``, if they exist."""
