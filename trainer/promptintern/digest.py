"""The SHA-256 digest of a folder's files, which reads each version of a file once per process."""

import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_THREADS = 8
"""The number of files that are read at once. Large models have dozens of files, and hashing releases Python's lock."""
_SETTLED_SECONDS = 2.0
"""The age in seconds from which a file's times tell whether the file has changed. Some file systems store times to the
second.
"""
_Version = tuple[int, int, int, int, int]
_KNOWN: dict[_Version, str] = {}
"""The digest of each version of a file: device, inode, size, and the times of the last change of content and inode."""


def digest_of_files(paths: Iterable[Path]) -> str:
    """Return a SHA-256 of the names, the sizes and every byte of the files.

    Raises:
        OSError: if a file cannot be read.
    """
    files = sorted(paths, key=lambda path: path.name)
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(_file_digest, files))
    total = hashlib.sha256()
    for path, digest in zip(files, digests, strict=True):
        total.update(f"{path.name}:{path.stat().st_size}:{digest};".encode())
    return total.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        version = _version(os.fstat(file.fileno()))
        if (known := _KNOWN.get(version)) is not None:
            return known
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    if _version(after) == version and time.time() - max(after.st_mtime, after.st_ctime) > _SETTLED_SECONDS:
        _KNOWN[version] = digest
    return digest


def _version(stat: os.stat_result) -> _Version:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
