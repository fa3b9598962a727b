"""Opens data files, local or in S3. Errors name the field of the job and the file."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from promptintern.errors import Problem, UserError
from promptintern.storage.options import S3Options
from promptintern.uris import display_uri


@contextmanager
def open_source(uri: str, *, field: str, s3: S3Options | None) -> Iterator[IO[bytes]]:
    """Open the file at ``uri`` (file:// or s3://) for reading. A file in S3 is first downloaded to a temporary folder.

    Raises:
        UserError: at ``field``, if the file does not exist or cannot be read.
        RunFailed: if the S3 server cannot be reached or keeps failing.
    """
    if uri.startswith("file://"):
        with _open_local(Path(display_uri(uri)), display_uri(uri), field) as file:
            yield file
        return
    with tempfile.TemporaryDirectory(prefix="promptintern-rows-") as folder:
        local = Path(folder) / "rows"
        _download(uri, local, field, s3)
        with _open_local(local, uri, field) as file:
            yield file


@contextmanager
def _open_local(path: Path, name: str, field: str) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise UserError.at(field, f"{name} does not exist") from None
    except IsADirectoryError:
        raise UserError.at(field, f"{name} is a folder; give a file") from None
    except OSError as error:
        raise UserError.at(field, f"{name} cannot be read: {error.strerror or error}") from None


def _download(uri: str, local: Path, field: str, s3: S3Options | None) -> None:
    from promptintern.storage.store import open_store

    folder, _, name = uri.rpartition("/")
    try:
        open_store(folder, s3=s3).download(name, local)
    except FileNotFoundError:
        raise UserError.at(field, f"{uri} does not exist") from None
    except ValueError:
        raise UserError.at(field, f"{uri} does not name a file; give s3://BUCKET/KEY") from None
    except UserError as error:
        raise UserError([Problem(where=field, message=str(problem)) for problem in error.problems]) from None
