"""What a kind of storage must be able to do. Everything above it is the same for all kinds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

TEMPORARY = ".tmp-"
"""How names of unfinished files begin. They are never listed, and no path may use such a name."""


class Backend(Protocol):
    """Bytes under '/'-separated keys. Every method tries again by itself and is safe to call from any thread.

    Raises, all methods:
        UserError: if the place or the right to it is missing.
        RunFailed: if it kept failing, or there is no space.
    """

    def uri(self, key: str) -> str:
        """The URI of ``key``; of the root for the empty key."""

    def get(self, key: str) -> bytes:
        """The content. ``FileNotFoundError`` if absent."""

    def chunks(self, key: str) -> Iterator[bytes]:
        """The content piece by piece. ``FileNotFoundError`` if absent."""

    def put(self, key: str, data: bytes) -> None:
        """Create or replace; a reader sees all of the old content or all of the new."""

    def put_file(self, local: Path, key: str) -> None:
        """``put`` of a local file's content, in pieces."""

    def create(self, key: str, data: bytes) -> bool:
        """Create ``key`` unless it exists: of any number of callers one gets True."""

    def size(self, key: str) -> int | None:
        """Bytes, or None if absent."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every file below ``folder`` (the empty string: of all), by key."""

    def delete(self, key: str) -> None:
        """Remove the file ``key`` and all files below the folder ``key``; absent is fine."""
