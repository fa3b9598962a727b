"""The storage at s3:// URIs: objects in a bucket. Every request is retried separately."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import s3fs
from aiobotocore.session import AioSession
from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.loaders import create_loader
from fsspec.asyn import sync
from promptintern_api.contract import ENV_STORAGE_CA

from promptintern.log import get_logger
from promptintern.storage.options import S3Options
from promptintern.storage.retry import RetryPolicy, Transient
from promptintern.storage.s3_errors import FailedRequest, NotSupported, classify_error

_T = TypeVar("_T")
_log = get_logger("promptintern.storage")
PART_BYTES = 16 << 20
"""The size in bytes of a part of a large transfer. S3 requires at least 5 MiB."""
_MAX_PARTS = 10_000
_CONNECT_SECONDS, _READ_SECONDS = 5, 30
_LOADER = create_loader()
"""The loader of botocore's description of S3, shared because parsing it takes most of the time of creating a client."""


def _certificate_settings() -> dict[str, str]:
    """Return the client settings that trust a private certificate authority, or no settings if none is configured."""
    path = os.environ.get(ENV_STORAGE_CA)
    return {"verify": path} if path and Path(path).is_file() else {}


class S3Backend:
    """A backend that stores objects in ``bucket``. Only this class retries; s3fs and botocore are set not to retry."""

    def __init__(self, bucket: str, options: S3Options, policy: RetryPolicy) -> None:
        self._bucket = bucket
        self._policy = policy
        self._endpoint = _host(options.endpoint)
        session = AioSession()
        session.register_component("data_loader", _LOADER)
        self._files = s3fs.S3FileSystem(
            session=session,
            endpoint_url=options.endpoint,
            client_kwargs=({"region_name": options.region} if options.region else {}) | _certificate_settings(),
            config_kwargs={
                "connect_timeout": _CONNECT_SECONDS,
                "read_timeout": _READ_SECONDS,
                "retries": {"total_max_attempts": 1},
                # Otherwise, every upload has a checksum in a trailer, which many servers do not know. Uploads are read
                # back and compared by SHA-256 where it matters.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            }
            | ({"s3": {"addressing_style": options.addressing_style.lower()}} if options.addressing_style else {}),
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        self._files.retries = 1
        self._encryption = options.encryption_arguments
        self._deletes_many = True
        """Whether the server removes several objects in one request. This is found out by the first such request."""

    def uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}".rstrip("/")

    def get(self, key: str) -> bytes:
        return self._run("GetObject", key, lambda: self._read(key))

    def chunks(self, key: str) -> Iterator[bytes]:
        size = self.size(key)
        if size is None:
            raise FileNotFoundError(self.uri(key))
        for start in range(0, size, PART_BYTES):
            stop = min(start + PART_BYTES, size)
            yield self._run("GetObject", key, partial(self._read, key, start, stop))

    def beginning(self, key: str, count: int) -> bytes:
        size = self.size(key)
        if size is None:
            raise FileNotFoundError(self.uri(key))
        stop = min(count, size)
        return self._run("GetObject", key, partial(self._read, key, 0, stop)) if stop else b""

    def put(self, key: str, data: bytes) -> None:
        self._request("PutObject", Key=key, Body=data, **self._encryption)

    def put_file(self, local: Path, key: str) -> None:
        size = local.stat().st_size
        if size <= 2 * PART_BYTES:
            self.put(key, local.read_bytes())
        else:
            self._run("CompleteMultipartUpload", key, lambda: self._put_parts(local, key, size))

    def create(self, key: str, data: bytes) -> bool:
        mark = {"creation": uuid.uuid4().hex}

        def attempt() -> bool:
            try:
                self._call("PutObject", Key=key, Body=data, IfNoneMatch="*", Metadata=mark, **self._encryption)
            except FileExistsError:
                # The object may be ours: the response to an earlier attempt can get lost, and the HTTP client repeats
                # a request on its own if a kept-alive connection turns out to be closed.
                return self._has_mark(key, mark)
            return True

        return self._run("PutObject", key, attempt)

    def _has_mark(self, key: str, mark: dict[str, str]) -> bool:
        try:
            return bool(self._call("HeadObject", Key=key).get("Metadata") == mark)
        except FileNotFoundError:  # the object has been removed since then
            return False

    def size(self, key: str) -> int | None:
        # Unlike HeadObject, a listing distinguishes a missing bucket from a missing key.
        page = self._list(key, MaxKeys=1)
        sizes = [item["Size"] for item in page.get("Contents", []) if item["Key"] == key]
        return int(sizes[0]) if sizes else None

    def sizes(self, folder: str) -> dict[str, int]:
        prefix = f"{folder}/" if folder else ""
        sizes: dict[str, int] = {}
        next_page: dict[str, str] = {}
        while True:
            page = self._list(prefix, **next_page)
            sizes |= {
                item["Key"]: int(item["Size"]) for item in page.get("Contents", []) if not item["Key"].endswith("/")
            }
            if not page.get("IsTruncated"):
                return sizes
            next_page = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        keys = [*([key] if key else []), *self.sizes(key)]
        for start in range(0, len(keys), 1000):
            some = keys[start : start + 1000]
            if self._deletes_many:
                try:
                    self._run("DeleteObjects", key, partial(self._delete, some))
                    continue
                except NotSupported as error:
                    self._deletes_many = False
                    _log.info("storage: objects are removed one by one", endpoint=self._endpoint, reason=str(error))
            for each in some:
                self._request("DeleteObject", Key=each)

    def _delete(self, keys: list[str]) -> None:
        objects = [{"Key": key} for key in keys]
        answer = self._call("DeleteObjects", Delete={"Objects": objects, "Quiet": True})
        for error in answer.get("Errors", []):
            # The status of the response is 200 even if keys could not be deleted.
            status = 403 if error.get("Code") == "AccessDenied" else 500
            response: Any = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}
            with self._translated_errors("DeleteObjects", str(error.get("Key"))):
                raise ClientError(response, "DeleteObjects")

    def _put_parts(self, local: Path, key: str, size: int) -> None:
        part_bytes = max(PART_BYTES, -(-size // _MAX_PARTS))
        upload = self._request("CreateMultipartUpload", Key=key, **self._encryption)["UploadId"]
        try:
            parts = []
            with local.open("rb") as file:
                for number in range(1, -(-size // part_bytes) + 1):
                    body = file.read(part_bytes)
                    answer = self._request("UploadPart", Key=key, UploadId=upload, PartNumber=number, Body=body)
                    parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            self._request("CompleteMultipartUpload", Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
        except FileNotFoundError as error:  # NoSuchUpload: the server lost the upload or has completed it
            raise Transient(f"the server no longer knows upload {upload}") from error
        except BaseException:
            with contextlib.suppress(Exception):
                self._call("AbortMultipartUpload", Key=key, UploadId=upload)
            raise

    def _list(self, prefix: str, **arguments: Any) -> Any:
        return self._request("ListObjectsV2", Prefix=prefix, **arguments)

    def _request(self, operation: str, **arguments: Any) -> Any:
        return self._run(operation, _key_or_prefix(arguments), lambda: self._call(operation, **arguments))

    def _run(self, operation: str, key: str, work: Callable[[], _T]) -> _T:
        about = {"bucket": self._bucket, "key": key, "endpoint": self._endpoint}
        return self._policy.run(work, operation=operation, about=about)

    def _read(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Return the bytes of object ``key`` from ``start`` up to ``stop``, by default all bytes, without retries."""
        arguments = {} if start is None or stop is None else {"Range": f"bytes={start}-{stop - 1}"}

        async def read() -> bytes:
            answer = await self._files._call_s3("get_object", Bucket=self._bucket, Key=key, **arguments)
            async with answer["Body"] as body:
                return bytes(await body.read())

        with self._translated_errors("GetObject", key):
            data: bytes = sync(self._files.loop, read)
        if start is not None and stop is not None and len(data) != stop - start:
            raise Transient(f"received {len(data)} bytes of {stop - start}")
        return data

    def _call(self, operation: str, **arguments: Any) -> Any:
        """Send the request ``operation`` once, without retries, and return the response."""
        with self._translated_errors(operation, _key_or_prefix(arguments), is_conditional="IfNoneMatch" in arguments):
            return self._files.call_s3(xform_name(operation), Bucket=self._bucket, **arguments)

    @contextlib.contextmanager
    def _translated_errors(self, operation: str, key: str, *, is_conditional: bool = False) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            request = FailedRequest.of(
                error,
                operation=operation,
                bucket=self._bucket,
                key=key,
                endpoint=self._endpoint,
                is_conditional=is_conditional,
            )
            raise classify_error(request) from error


def _key_or_prefix(arguments: dict[str, Any]) -> str:
    return str(arguments.get("Key") or arguments.get("Prefix") or "")


def _host(endpoint: str | None) -> str:
    """Return only the host and port of ``endpoint``, because a URL may contain a password."""
    if endpoint is None:
        return "AWS"
    parts = urlsplit(endpoint)
    return (parts.hostname or endpoint) + (f":{parts.port}" if parts.port else "")
