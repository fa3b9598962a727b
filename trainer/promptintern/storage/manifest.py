"""Manifests, which list the digest of each file in a folder. A folder counts as stored only if its manifest exists."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from promptintern_api.contract import RUN_FORMAT
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from promptintern.errors import RunFailed
from promptintern.log import get_logger
from promptintern.storage.run_format import check_format
from promptintern.storage.store import FileEntry, Store, check_path, hash_file

__all__ = ["FileEntry", "Manifest", "commit_folder", "fetch_folder", "read_manifest"]

_DOWNLOAD_ATTEMPTS = 3
"""The maximum number of times that a file is fetched if the fetched content differs from the manifest."""
_log = get_logger("promptintern.storage")


def _finite(value: JsonValue) -> JsonValue:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("JSON has no infinite numbers and no NaN")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(part)
    return value


class Manifest(BaseModel):
    """The commit record of a folder. It is written once, after all files of the folder, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    schema_version: Literal["2.1"] = RUN_FORMAT
    kind: str
    """The kind of the folder: ``stage``, ``checkpoint``, ``adapter``, ``document``, ``teacher`` or ``queries``."""
    files: dict[Annotated[str, AfterValidator(check_path)], FileEntry]
    """The size and digest of each file, by path relative to the committed folder."""
    parent: str | None = None
    """The digest of the manifest on which this manifest is based, or None."""
    term: int = Field(ge=0)
    """The term in which the folder was committed."""
    meta: dict[str, Annotated[JsonValue, AfterValidator(_finite)]] = Field(default_factory=dict)
    """The facts that can be read without the files of the folder, such as rate, shots, tokens and scores."""

    def to_json(self) -> bytes:
        """Return the manifest as canonical JSON: sorted keys, no spaces, UTF-8. Equal manifests give equal bytes."""
        return json.dumps(
            self.model_dump(mode="json", by_alias=True),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        ).encode()

    def digest(self) -> str:
        """Return the SHA-256 of ``to_json``, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()


def read_manifest(store: Store, path: str) -> Manifest | None:
    """Return the manifest in the file ``path``, or None if the file does not exist.

    Raises:
        UserError: if another version of this program wrote the file.
        RunFailed: if the file is not a valid manifest.
    """
    try:
        data = store.read(path)
    except FileNotFoundError:
        return None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        check_format(document, f"{store.uri}/{path}")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise RunFailed(
            f"{store.uri}/{path} is not a valid manifest ({'.'.join(map(str, first['loc'])) or 'document'}: "
            f"{first['msg']}); remove the file, and the run commits its folder again"
        ) from None


def commit_folder(
    store: Store,
    *,
    folder: str,
    local: Path,
    manifest_path: str,
    kind: str,
    term: int,
    parent: str | None,
    meta: Mapping[str, JsonValue],
    fence: Callable[[], None] | None = None,
) -> Manifest:
    """Commit the files of ``local`` as ``folder``: upload all files, then create the manifest exclusively.

    The first commit wins. If a manifest already exists, return it without writing anything; its ``term`` is the
    term of the first commit.

    Args:
        manifest_path: The path of the manifest, which may be in ``folder`` under a name that no file of ``local`` has.
        fence: A check that runs before every upload and before the manifest is created. If the check raises an
            exception because a newer term was claimed, nothing more is written.

    Raises:
        RunFailed: if the storage kept failing, or the existing manifest cannot be read.
    """
    existing = read_manifest(store, manifest_path)
    if existing is not None:
        return existing
    check_fence = fence or (lambda: None)
    files: dict[str, FileEntry] = {}
    for path in sorted(p for p in local.rglob("*") if p.is_file()):
        name = path.relative_to(local).as_posix()
        if f"{folder}/{name}" == manifest_path:
            raise ValueError(f"{path} has the manifest's own name")
        check_fence()
        files[name] = store.upload(path, f"{folder}/{name}")
    manifest = Manifest(kind=kind, files=files, parent=parent, term=term, meta=dict(meta))
    check_fence()
    if store.create(manifest_path, manifest.to_json()):
        return manifest
    winner = read_manifest(store, manifest_path)
    if winner is None:
        raise RunFailed(
            f"{store.uri}/{manifest_path} was removed right after it was created; is the run being deleted?"
        )
    return winner


def fetch_folder(store: Store, manifest: Manifest, *, folder: str, local: Path) -> None:
    """Copy the files that ``manifest`` lists to ``local``, and check each file against the manifest.

    Args:
        folder: The committed folder, or an empty string if ``store`` is that folder.

    Raises:
        RunFailed: if a file is missing or differs from the committed one; the message names the file.
    """
    for name, entry in manifest.files.items():
        path = f"{folder}/{name}" if folder else name
        for attempt in range(1, _DOWNLOAD_ATTEMPTS + 1):
            try:
                store.download(path, local / name)
            except FileNotFoundError:
                raise RunFailed(f"{store.uri}/{path} is missing, though its manifest was committed") from None
            fetched = hash_file(local / name)
            if fetched == entry:
                break
            _log.warning(
                "storage: the fetched file differs from the committed one", file=f"{store.uri}/{path}", attempt=attempt
            )
        else:
            (local / name).unlink()
            raise RunFailed(
                f"{store.uri}/{path} is not what was committed: it has {fetched.size} bytes with SHA-256 "
                f"{fetched.sha256[:12]}, the manifest says {entry.size} with {entry.sha256[:12]}; restore it, or "
                "remove its manifest, and the run creates it again"
            )
