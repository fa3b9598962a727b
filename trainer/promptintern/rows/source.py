"""Opening a data file, local or in S3, with errors that name the field and the place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import unquote

from promptintern.errors import RunFailed, UserError
from promptintern.storage.options import S3Options


def shown_path(uri: str) -> str:
    """How messages name the file: a local file by its path."""
    return unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri


@contextmanager
def open_source(uri: str, *, field: str, s3: S3Options | None) -> Iterator[IO[bytes]]:
    """The bytes at ``uri`` (file:// or s3://).

    Raises:
        UserError: at ``field``, if there is no such file, or it may not be read.
        RunFailed: if the S3 server cannot be reached or fails.
    """
    shown = shown_path(uri)
    local = uri.startswith("file://")
    try:
        with _open_local(shown) if local else _open_s3(uri, s3) as file:
            yield file
    except FileNotFoundError:
        raise UserError.at(field, f"{shown} does not exist") from None
    except IsADirectoryError:
        raise UserError.at(field, f"{shown} is a folder; give the file") from None
    except PermissionError as error:
        raise UserError.at(field, f"{shown} may not be read: {_reason(error)}{'' if local else _CREDENTIALS}") from None
    except OSError as error:
        if local:
            raise UserError.at(field, f"{shown} cannot be read: {_reason(error)}") from None
        raise RunFailed(f"{field}: reading {shown} failed: {_reason(error)}") from None


_CREDENTIALS = "; check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and the bucket's policy"


def _open_local(path: str) -> IO[bytes]:
    return Path(path).open("rb")


@contextmanager
def _open_s3(uri: str, s3: S3Options | None) -> Iterator[IO[bytes]]:
    import fsspec
    from botocore.exceptions import (  # type: ignore[import-untyped]
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    options = s3 or S3Options()
    client = {"region_name": options.region} if options.region else {}
    try:
        # Without caches: a file that was replaced since the last run must be seen.
        system = fsspec.filesystem(
            "s3",
            endpoint_url=options.endpoint,
            client_kwargs=client,
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        with system.open(uri, "rb") as file:
            yield file
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise PermissionError(str(error)) from None
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        raise (PermissionError if status in (401, 403) else OSError)(str(error)) from None
    except BotoCoreError as error:
        raise OSError(str(error)) from None


def _reason(error: OSError) -> str:
    text = error.strerror or str(error) or type(error).__name__
    return text.strip().splitlines()[0]
