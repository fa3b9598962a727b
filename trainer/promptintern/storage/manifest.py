"""Manifests: a folder of files exists once its manifest does, and is what the manifest says or nothing."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import structlog
from promptintern_api.contract import RUN_FORMAT
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from promptintern.errors import RunFailed
from promptintern.storage.file_entry import FileEntry
from promptintern.storage.run_format import check_format
from promptintern.storage.store import Store, check_path, hash_file

__all__ = ["FileEntry", "Manifest", "commit_folder", "fetch_folder", "read_manifest"]

_DOWNLOAD_ATTEMPTS = 3
"""How often a file is fetched whose content is not what the manifest says."""
_log = structlog.get_logger("promptintern.storage")


def _finite(value: JsonValue) -> JsonValue:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("JSON has no infinite numbers and no NaN")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(part)
    return value


class Manifest(BaseModel):
    """What was committed. It is written last, once, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    schema_version: Literal["2.0"] = RUN_FORMAT
    kind: str
    """``stage``, ``checkpoint``, ``adapter``, ..."""
    files: dict[Annotated[str, AfterValidator(check_path)], FileEntry]
    """By path relative to the committed folder."""
    parent: str | None = None
    """``digest`` of the manifest that this one builds on."""
    term: int = Field(ge=0)
    """Which incarnation of the run made it."""
    meta: dict[str, Annotated[JsonValue, AfterValidator(_finite)]] = Field(default_factory=dict)
    """Rate, shots, tokens, scores: whatever a reader wants to know without the files."""

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8. Equal manifests give equal bytes."""
        return json.dumps(
            self.model_dump(mode="json", by_alias=True),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        ).encode()

    def digest(self) -> str:
        """SHA-256 of ``to_json``, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()


def read_manifest(store: Store, path: str) -> Manifest | None:
    """The manifest at ``path``, None if absent.

    Raises:
        UserError: if another version of this program wrote it.
        RunFailed: if there is something else.
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
    """Make the files of ``local`` exist as ``folder``: all of them, then the manifest, once.

    The first commit wins: a manifest that is there already is returned, and nothing is written. So compare its
    ``term`` to know whose files they are.

    Args:
        manifest_path: May lie in ``folder``, under a name that no file of ``local`` has.
        fence: Called before every upload and before the manifest is created; raises if a newer incarnation is at
            work, and nothing more is written.

    Raises:
        RunFailed: if storage kept failing, or the manifest there cannot be read.
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
    """Copy the committed files to ``local``, each checked against the manifest.

    Args:
        folder: Where they were committed; empty if ``store`` is that folder itself.

    Raises:
        RunFailed: naming the file that is missing or is not what was committed.
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
