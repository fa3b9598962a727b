"""Downloading a job's adapter and report from its storage."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from promptintern_api.contract import ADAPTER_FOLDER, MANIFEST_FILE, PROMPT_FILE, REPORT_FOLDER, REPORT_HTML

from promptintern.cluster.objects import Job
from promptintern.cluster.run_location import RunLocation
from promptintern.errors import RunFailed, UserError
from promptintern.storage.manifest import fetch_folder, read_manifest
from promptintern.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """The local folders of the downloaded adapter and report; a folder is None if the storage did not contain it."""

    adapter: Path | None
    report: Path | None
    base_model: str | None
    """The URI of the base model of the adapter, or None if no adapter was downloaded or it names no base model."""


def check_target(folder: Path) -> None:
    """Check that ``folder`` is new or empty, and create its parent folders.

    Raises:
        UserError: if the folder is not empty, is a file, or cannot be created.
    """
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError.at(str(folder), "is not empty, and fetch overwrites nothing; give another folder")
        if folder.exists() and not folder.is_dir():
            raise UserError.at(str(folder), "is a file; give a folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError.at(str(folder), f"cannot be used: {error.strerror}") from None


def fetch(location: RunLocation, job: Job, folder: Path) -> Fetched:
    """Download the adapter and report of ``job`` into ``folder``; if this fails, ``folder`` stays as it was.

    Raises:
        UserError: if ``folder`` cannot be used, or the storage cannot be read with the user's credentials.
        RunFailed: if neither the adapter nor the report is stored, the storage does not answer, or a file differs from
            its entry in the manifest.
    """
    check_target(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        partial = Path(temporary, "partial")
        partial.mkdir()
        with location.hinting():
            store = location.open()
            adapter = _fetch_adapter(store.child(ADAPTER_FOLDER), partial / ADAPTER_FOLDER)
            report = _fetch_report(store.child(REPORT_FOLDER), partial / REPORT_FOLDER)
        if not adapter and not report:
            raise RunFailed(_nothing_stored_message(job, location))
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)
    return Fetched(
        adapter=folder / ADAPTER_FOLDER if adapter else None,
        report=folder / REPORT_FOLDER if report else None,
        base_model=_base_model(folder / ADAPTER_FOLDER) if adapter else None,
    )


def _fetch_adapter(store: Store, local: Path) -> bool:
    manifest = read_manifest(store, MANIFEST_FILE)
    if manifest is None:
        return False
    local.mkdir()
    fetch_folder(store, manifest, folder="", local=local)
    # `predict` accepts the folder as an adapter only if it contains a manifest.
    (local / MANIFEST_FILE).write_bytes(manifest.to_json())
    return True


def _fetch_report(store: Store, local: Path) -> bool:
    names = store.list()
    for name in names:
        try:
            store.download(name, local / name)
        except ValueError as error:  # whoever may write to the bucket chose the name
            raise RunFailed(f"{store.uri}: {error}; delete this file from the storage") from None
    return REPORT_HTML in names


def _nothing_stored_message(job: Job, location: RunLocation) -> str:
    phase = job.status.phase
    stage = f", stage {job.status.stage}" if job.status.stage else ""
    state = f"the job is {phase}{stage}" if phase else "the job has not started"
    advice = "" if job.is_over else "; fetch it after it has succeeded"
    return f"neither an adapter nor a report is stored under {location.uri}: {state}{advice}"


def _base_model(adapter: Path) -> str | None:
    try:
        base_model = json.loads((adapter / PROMPT_FILE).read_text(encoding="utf-8"))["base_model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return base_model if isinstance(base_model, str) else None
