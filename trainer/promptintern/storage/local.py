"""The storage at file:// URIs: a folder of a local or mounted file system."""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from promptintern.advice import run_again
from promptintern.errors import RunFailed, UserError
from promptintern.storage.backend import TEMPORARY
from promptintern.storage.retry import RetryPolicy, Transient

_T = TypeVar("_T")
_CHUNK = 1 << 20
_TRANSIENT = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.EIO,
    errno.ENOTEMPTY,  # another process wrote to a folder while it was being removed
    errno.ESTALE,  # NFS
    errno.ETIMEDOUT,
}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


def classify_error(error: OSError, path: Path, operation: str) -> Exception:
    """Return the exception to raise in place of ``error``: a Transient, UserError, RunFailed or FileNotFoundError."""
    no_file = operation == "read" and error.errno in {errno.EISDIR, errno.ENOTDIR}
    if no_file or isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such file", str(error.filename or path))
    reason = error.strerror or str(error)
    if error.errno in _TRANSIENT:
        return Transient(reason)
    if error.errno in _NO_SPACE:
        return RunFailed(
            f"{path}: {operation} failed because there is no space left ({reason}; {_space(path)}); free some space; "
            f"{run_again()}"
        )
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return UserError.at(str(path), f"cannot {operation}: {reason}; choose a folder that this user may write to")
    if error.errno in {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ELOOP}:
        return UserError.at(str(path), f"cannot {operation}: {reason}; choose another folder")
    return RunFailed(f"{path}: {operation} failed: {reason}")


def _space(path: Path) -> str:
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(folder)
            return f"{usage.free / 2**20:.1f} of {usage.total / 2**20:.1f} MiB are free now"
    return "free space unknown"


@contextlib.contextmanager
def translated_errors(path: Path, operation: str) -> Iterator[None]:
    """Translate errors of the operating system inside this block with ``classify_error``."""
    try:
        yield
    except OSError as error:
        raise classify_error(error, path, operation) from error


@contextlib.contextmanager
def writing_files(folder: Path) -> Iterator[None]:
    """Translate the errors of writing files to the local ``folder`` inside this block.

    Raises:
        UserError: if the folder cannot be written to.
        RunFailed: if there is no space left, or a write failed for another reason.
    """
    try:
        yield
    except (OSError, SafetensorError) as failure:
        error = failure if isinstance(failure, OSError) else _os_error(failure)
        if error is None:
            raise
        translated = classify_error(error, folder, "write")
        is_final = isinstance(translated, RunFailed | UserError)
        raise (translated if is_final else RunFailed(f"{folder}: write failed: {error.strerror}")) from failure


def _os_error(error: SafetensorError) -> OSError | None:
    """Return the operating system's error that safetensors reports, of which only the text has the number."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Provide a path for a temporary file, which is synced and renamed to ``target`` at the end of the block."""
    with _temporary(target) as path:
        yield path
        _sync(path)
        path.replace(target)
        _sync(target.parent)


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    _make_folder(target.parent)
    path = target.with_name(TEMPORARY + uuid.uuid4().hex)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class LocalBackend:
    """A backend that stores files below ``root``. A crash leaves no incomplete files, except ignored temporary ones."""

    def __init__(self, root: Path, policy: RetryPolicy) -> None:
        self._root = root
        self._policy = policy

    def uri(self, key: str) -> str:
        return self._path(key).as_uri()

    def get(self, key: str) -> bytes:
        path = self._path(key)
        return self._run("read", path, path.read_bytes)

    def chunks(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        with self._run("read", path, lambda: path.open("rb")) as file:
            while chunk := self._run("read", path, lambda: file.read(_CHUNK)):
                yield chunk

    def beginning(self, key: str, count: int) -> bytes:
        path = self._path(key)

        def read() -> bytes:
            with path.open("rb") as file:
                return file.read(count)

        return self._run("read", path, read)

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)

        def write() -> None:
            with replacing(path) as temporary:
                temporary.write_bytes(data)

        self._write(path, write)

    def put_file(self, local: Path, key: str) -> None:
        path = self._path(key)

        def write() -> None:
            with replacing(path) as temporary:
                shutil.copyfile(local, temporary)

        self._write(path, write)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        attempts = 0

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            if not path.exists():
                return _create_with_link(path, data)
            # An earlier attempt may have created the file before it failed.
            return attempts > 1 and path.read_bytes() == data

        return self._write(path, attempt)

    def size(self, key: str) -> int | None:
        path = self._path(key)

        def stat() -> int | None:
            try:
                return path.stat().st_size if path.is_file() else None
            except FileNotFoundError:
                return None

        return self._run("stat", path, stat)

    def sizes(self, folder: str) -> dict[str, int]:
        path = self._path(folder)
        return self._run("list", path, lambda: dict(self._walk(path)))

    def delete(self, key: str) -> None:
        path = self._path(key)

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

        self._run("delete", path, remove)

    def _walk(self, folder: Path) -> Iterator[tuple[str, int]]:
        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        for parent, _, names in os.walk(folder, onerror=refuse):
            for name in names:
                path = Path(parent, name)
                if not name.startswith(TEMPORARY):
                    with contextlib.suppress(FileNotFoundError):  # removed since the listing
                        yield path.relative_to(self._root).as_posix(), path.stat().st_size

    def _write(self, path: Path, work: Callable[[], _T]) -> _T:
        def attempt() -> _T:
            try:
                return work()
            except FileNotFoundError as error:  # another process has removed the folder
                raise Transient(f"{path.parent} was removed") from error

        return self._run("write", path, attempt)

    def _run(self, operation: str, path: Path, work: Callable[[], _T]) -> _T:
        def attempt() -> _T:
            with translated_errors(path, operation):
                return work()

        return self._policy.run(attempt, operation=operation, about={"path": str(path)})

    def _path(self, key: str) -> Path:
        return self._root / key


def _create_with_link(path: Path, data: bytes) -> bool:
    """Create the file ``path`` with content ``data`` atomically, by a hard link. Return False if ``path`` exists."""
    with _temporary(path) as temporary:
        temporary.write_bytes(data)
        _sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            # Over NFS, the reply to a successful call can be lost; a second link shows that the call succeeded.
            return temporary.stat().st_nlink > 1
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise UserError.at(
                    str(path),
                    f"the file system does not support hard links ({error.strerror}), which commits need; use "
                    "another one",
                ) from error
            raise
        _sync(path.parent)
        return True
