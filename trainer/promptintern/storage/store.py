"""A folder of files, local or in S3, in which a file can be created exclusively and every write is verified."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from promptintern.errors import RunFailed, UserError
from promptintern.log import get_logger
from promptintern.storage.backend import TEMPORARY, Backend
from promptintern.storage.local import LocalBackend, replacing, translated_errors
from promptintern.storage.options import S3Options
from promptintern.storage.retry import RetryPolicy

_WRITE_ATTEMPTS = 3
"""The maximum number of times that a file is written if the content read back differs."""
_CHUNK = 1 << 20
_log = get_logger("promptintern.storage")


class FileEntry(BaseModel):
    """A file's size in bytes and the SHA-256 of its content, in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def open_store(uri: str, *, s3: S3Options | None = None, policy: RetryPolicy | None = None) -> "Store":
    """Open the folder at ``uri``: ``file:///absolute/path`` or ``s3://bucket/prefix``.

    The folder need not exist, but the bucket must.

    Args:
        s3: The endpoint and region. Botocore finds the credentials (environment, ~/.aws, the pod's identity).
        policy: The rule for when to retry; by default, ``RetryPolicy.from_environment``.

    Raises:
        UserError: if ``uri`` has neither of these forms.
    """
    policy = policy or RetryPolicy.from_environment()
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UserError.at(uri, "must name an absolute path, as in file:///data/runs")
        return Store(LocalBackend(Path(unquote(uri.removeprefix("file://").removeprefix("localhost"))), policy))
    if parts.scheme == "s3" and parts.netloc:
        # Imported here, because the client takes a second to load and a local run does not need it.
        from promptintern.storage.s3 import S3Backend

        _, _, prefix = uri.removeprefix("s3://").partition("/")
        return Store(S3Backend(parts.netloc, s3 or S3Options(), policy), "/".join(filter(None, prefix.split("/"))))
    raise UserError.at(uri, "is not a storage URI; give file:///absolute/path or s3://bucket/prefix")


class Store:
    """A folder of files. Paths are relative and '/'-separated. A store may be used by several threads.

    Every method may raise ``UserError`` (the bucket does not exist, or access is denied) or ``RunFailed`` (requests
    kept failing until the deadline, or no space is left). Both messages name the file or bucket and the operation.
    """

    def __init__(self, backend: Backend, prefix: str = "") -> None:
        self._backend = backend
        self._prefix = prefix

    @property
    def uri(self) -> str:
        """The URI of this folder, in the form that ``open_store`` accepts."""
        return self._backend.uri(self._prefix)

    def __repr__(self) -> str:
        return f"Store({self.uri})"

    def child(self, *parts: str) -> "Store":
        """Return the subfolder at the relative path that consists of ``parts``."""
        return Store(self._backend, self._key("/".join(parts)))

    def read(self, path: str) -> bytes:
        """Return the content of the file ``path``. Raise ``FileNotFoundError`` if the file does not exist."""
        return self._backend.get(self._key(path))

    def write(self, path: str, data: bytes) -> None:
        """Create or replace the file ``path``, and verify it by reading it back."""
        key = self._key(path)
        for _ in range(_WRITE_ATTEMPTS):
            self._backend.put(key, data)
            if self._holds(key, data):
                return
        raise self._not_as_written(path)

    def create(self, path: str, data: bytes) -> bool:
        """Create the file ``path`` unless it exists. Return whether this call created it.

        If several callers, even in different processes, create the same file, exactly one gets True.
        """
        key = self._key(path)
        if not self._backend.create(key, data):
            return False
        for _ in range(_WRITE_ATTEMPTS):
            if self._holds(key, data):
                return True
            # This call created the file, so it may repair it.
            self._backend.put(key, data)
        raise self._not_as_written(path)

    def exists(self, path: str) -> bool:
        """Return whether the file ``path`` exists."""
        return self.size(path) is not None

    def beginning(self, path: str, count: int) -> bytes:
        """Return the first ``count`` bytes of the file ``path``, or all of it if it is shorter.

        Raises:
            FileNotFoundError: if the file does not exist.
        """
        return self._backend.beginning(self._key(path), count)

    def size(self, path: str) -> int | None:
        """Return the size of the file ``path`` in bytes, or None if it does not exist."""
        return self._backend.size(self._key(path))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the sizes in bytes of all files below the folder ``prefix``, as a dict that is sorted by path."""
        start = len(self._prefix) + 1 if self._prefix else 0
        sizes = self._backend.sizes(self._key(prefix) if prefix.strip("/") else self._prefix)
        return {key[start:]: size for key, size in sorted(sizes.items())}

    def list(self, prefix: str = "") -> list[str]:
        """Return the paths of all files below the folder ``prefix``, sorted."""
        return [*self.sizes(prefix)]

    def delete(self, prefix: str) -> None:
        """Remove the file ``prefix`` and all files below the folder ``prefix``, if they exist."""
        self._backend.delete(self._key(prefix))

    def upload(self, local: Path, path: str) -> FileEntry:
        """Upload the file ``local`` to ``path`` in chunks, verify it, and return its size and digest."""
        key = self._key(path)
        for attempt in range(1, _WRITE_ATTEMPTS + 1):
            entry = hash_file(local)
            self._backend.put_file(local, key)
            try:
                stored = _hash_chunks(self._backend.chunks(key))
            except FileNotFoundError:
                stored = None
            if stored == entry:
                return entry
            _log.warning(
                "storage: the stored file differs from the one sent", file=self._backend.uri(key), attempt=attempt
            )
        raise self._not_as_written(path)

    def download(self, path: str, local: Path) -> None:
        """Download ``path`` to ``local``, whole or not at all. Raise ``FileNotFoundError`` if it does not exist."""
        chunks = self._backend.chunks(self._key(path))
        # Read the first chunk, which fails if the file does not exist, before any local change.
        first = next(chunks, b"")
        with translated_errors(local, "write"), replacing(local) as temporary, temporary.open("wb") as file:
            file.write(first)
            for chunk in chunks:
                file.write(chunk)

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            stored = self._backend.get(key)
        except FileNotFoundError:
            stored = None
        if stored != data:
            _log.warning("storage: the stored file differs from the one sent", file=self._backend.uri(key))
        return stored == data

    def _not_as_written(self, path: str) -> RunFailed:
        return RunFailed(
            f"{self._backend.uri(self._key(path))}: the file reads back different from what was written, "
            f"{_WRITE_ATTEMPTS} times in a row; the storage, or a proxy in front of it, damages files"
        )

    def _key(self, path: str) -> str:
        check_path(path)
        return f"{self._prefix}/{path.rstrip('/')}" if self._prefix else path.rstrip("/")


def check_path(path: str) -> str:
    """Return ``path`` if it is a valid relative path; otherwise, raise ``ValueError``."""
    parts = path.rstrip("/").split("/")
    if any(part in ("", ".", "..") or part.startswith(TEMPORARY) or "\0" in part or "\\" in part for part in parts):
        raise ValueError(f"{path!r} is not a relative path of a stored file")
    return path


def hash_file(local: Path) -> FileEntry:
    """Return the size and SHA-256 of the file ``local``."""
    with translated_errors(local, "read"), local.open("rb") as file:
        return _hash_chunks(iter(lambda: file.read(_CHUNK), b""))


def _hash_chunks(chunks: Iterable[bytes]) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return FileEntry(size=size, sha256=digest.hexdigest())
