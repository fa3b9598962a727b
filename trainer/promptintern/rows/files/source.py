"""The files that a data source names: one file, or all files of a folder, a pattern or a data set on a hub."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from promptintern_api.data import DataSource

from promptintern.errors import Problem, UserError
from promptintern.rows.files.hub import HubDataset, find_dataset
from promptintern.rows.files.names import choose_names, is_pattern, misplaced_pattern
from promptintern.storage.options import S3Options
from promptintern.uris import display_uri

if TYPE_CHECKING:
    from promptintern.storage.store import Store

Result = TypeVar("Result")
_NO_KEY = "{} does not name a file; give s3://BUCKET/KEY"


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A data file that can be opened."""

    uri: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    """A function that opens the file for reading. A file that is not local is first downloaded to a temporary folder.

    Raises:
        UserError: if the file does not exist or cannot be read.
        RunFailed: if the server of the file cannot be reached or keeps failing.
    """


def data_files(source: DataSource, *, field: str, s3: S3Options | None) -> list[DataFile]:
    """Return the files of ``source`` in the order of their names.

    Args:
        source: The data source.
        field: The field of the job with the URI, for messages.
        s3: The options for connecting to the S3 server.

    Raises:
        UserError: at ``field``, if no file, too many files, or files of several formats are named.
        RunFailed: if a server cannot be reached or keeps failing.
    """
    uri = source.uri
    if uri.startswith("hf://"):
        dataset = find_dataset(uri, field=field)
        return [
            DataFile(uri=f"{dataset.uri}/{path}", open=partial(_open_hub, dataset, path, field))
            for path in dataset.choose(source.split, field=field)
        ]
    if source.split is not None:
        raise UserError.at(
            field.removesuffix("uri") + "split", "is only for data sets on a hub (hf://datasets/ORG/NAME)"
        )
    return _local_files(uri, field) if uri.startswith("file://") else _s3_files(uri, field, s3)


def _local_files(uri: str, field: str) -> list[DataFile]:
    path = Path(display_uri(uri))
    folder, pattern = path.parent, path.name
    if path.is_dir():
        folder, pattern = path, "*"
    elif not path.exists() and is_pattern(str(folder)) and not folder.is_dir():
        raise misplaced_pattern(str(path), field=field)
    elif path.exists() or not is_pattern(pattern):
        return [DataFile(uri=uri, open=partial(_open_local, path, str(path), field))]
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    except OSError as error:
        raise UserError.at(field, f"{folder} cannot be read: {error.strerror or error}") from None
    return [
        DataFile(uri=(folder / name).as_uri(), open=partial(_open_local, folder / name, str(folder / name), field))
        for name in choose_names(names, pattern, where=str(path), field=field)
    ]


def _s3_files(uri: str, field: str, s3: S3Options | None) -> list[DataFile]:
    from promptintern.storage.store import open_store

    parent, _, name = uri.rpartition("/")
    if "/" not in uri.removeprefix("s3://"):
        raise UserError.at(field, _NO_KEY.format(uri))
    folder = _at_field(field, lambda: open_store(parent, s3=s3))
    single = [DataFile(uri=uri, open=partial(_open_s3, folder, name, field))]
    try:
        # A key may hold the characters of a pattern, and may also be the beginning of other keys.
        if name and _at_field(field, lambda: folder.exists(name)):
            return single
    except ValueError:
        raise UserError.at(field, _NO_KEY.format(uri)) from None
    may_be_file = bool(name) and not is_pattern(name)
    if may_be_file:
        folder = folder.child(name)
    try:
        names = [path for path in folder.list() if "/" not in path]
    except UserError as error:
        if may_be_file:
            return single  # the bucket may not be listed, and the missing file is reported when it is opened
        raise _at(field, error) from None
    if not names and is_pattern(parent):
        raise misplaced_pattern(uri, field=field)
    if may_be_file and not names:
        return single
    pattern = name if is_pattern(name) else "*"
    return [
        DataFile(uri=f"{folder.uri}/{each}", open=partial(_open_s3, folder, each, field))
        for each in choose_names(names, pattern, where=uri, field=field)
    ]


@contextmanager
def _open_local(path: Path, name: str, field: str) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise UserError.at(field, f"{name} does not exist") from None
    except OSError as error:
        raise UserError.at(field, f"{name} cannot be read: {error.strerror or error}") from None


@contextmanager
def _open_hub(dataset: HubDataset, path: str, field: str) -> Iterator[IO[bytes]]:
    with _open_local(dataset.download(path, field=field), f"{dataset.uri}/{path}", field) as file:
        yield file


@contextmanager
def _open_s3(folder: "Store", name: str, field: str) -> Iterator[IO[bytes]]:
    uri = f"{folder.uri}/{name}"
    with tempfile.TemporaryDirectory(prefix="promptintern-rows-") as temporary:
        local = Path(temporary) / "rows"
        try:
            _at_field(field, lambda: folder.download(name, local))
        except FileNotFoundError:
            raise UserError.at(field, f"{uri} does not exist") from None
        with _open_local(local, uri, field) as file:
            yield file


def _at_field(field: str, request: Callable[[], Result]) -> Result:
    """Return the result of a request to the storage, whose problems are at ``field``."""
    try:
        return request()
    except UserError as error:
        raise _at(field, error) from None


def _at(field: str, error: UserError) -> UserError:
    """Return an error with the problems of ``error`` at ``field``."""
    return UserError([Problem(where=field, message=str(problem)) for problem in error.problems])
