"""A file reader that computes the digest of what it reads."""

import hashlib
from typing import IO

_CHUNK = 2**20


class HashingReader:
    """A reader of ``file`` that computes the digest of everything that it reads."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        """Return True, as readers do."""
        return True

    def close(self) -> None:
        """Leave the file open, because whoever opened it closes it. Arrow calls this when it frees its stream."""

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes, or all that is left."""
        content = self._file.read(size)
        self._digest.update(content)
        return content

    def peek(self, size: int) -> bytes:
        """Return the next ``size`` bytes without reading them."""
        content = self._file.read(size)
        self._file.seek(-len(content), 1)
        return content

    def readline(self, size: int = -1) -> bytes:
        """Read a line of at most ``size`` bytes, as ``readline`` of a binary file does."""
        line = self._file.readline(size)
        self._digest.update(line)
        return line

    def digest_of_all(self) -> str:
        """Read the rest of the file, and return the SHA-256 of the whole file."""
        while chunk := self._file.read(_CHUNK):
            self._digest.update(chunk)
        return self._digest.hexdigest()
