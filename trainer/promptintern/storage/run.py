"""The folder of a run, which holds claimed terms, committed stages and documents, and checkpoints."""

import json
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from promptintern_api.contract import MANIFEST_FILE, RUN_FORMAT
from pydantic import JsonValue

from promptintern.errors import InfrastructureFailed, RunFailed, UserError
from promptintern.log import get_logger
from promptintern.stage_record import TrackRecord
from promptintern.storage.manifest import Manifest, commit_folder, fetch_folder, read_manifest
from promptintern.storage.store import Store

_TERM = re.compile(r"terms/(\d+)\.json")
_STAGE = re.compile(rf"stages/([^/]+)/{re.escape(MANIFEST_FILE)}")
_TERM_FOLDER = re.compile(r"(stages/[^/]+/t\d+/[^/]+)/")
_CHECKPOINT = re.compile(rf"(stages/[^/]+/t(\d+)/checkpoints/step-(\d+))/{re.escape(MANIFEST_FILE)}")
_DOCUMENT = "document.json"
R = TypeVar("R", bound=TrackRecord)
_log = get_logger("promptintern.storage")


class FencedOut(InfrastructureFailed):
    """Another process has claimed a newer term of the run, so this process must not write any more."""

    def __init__(self, message: str, *, claimant: str) -> None:
        super().__init__(message)
        self.claimant = claimant
        """The id of the driver that claimed the newer term."""


@dataclass(frozen=True, kw_only=True)
class Claimant:
    """A driver that claims a run.

    The workers of the driver may claim several terms in succession, until another driver claims a term.
    """

    id: str
    newest_term: int
    """The newest term of the run at the time when the driver started."""


class RunStore:
    """The files of one run:

    - ``job.json`` and ``model.json``: the job, data and model with which the run began
    - ``terms/<n>.json``: the claim of term ``n``; the claim with the highest number owns the run
    - ``queries/<shard>/``: the queries that the base model wrote and their ``manifest.json``
    - ``teacher/<teacher>/<shard>/``: a teacher's answers and their ``manifest.json``
    - ``stages/<key>/manifest.json`` and ``stages/<key>/t<term>/adapter/``: the committed result of a stage
    - ``stages/<key>/t<term>/checkpoints/step-<n>/``: a checkpoint and its ``manifest.json``
    - ``evaluation/<arm>/``: the answers of an arm and their ``manifest.json``
    - ``evaluation/latency/``, ``evaluation/retention/`` and ``evaluation/coverage/``: further figures and their
      ``manifest.json``
    - ``times/``, ``adapter/``, ``report/`` and ``logs/``: wall times, the final adapter, the report, and the logs
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    # Terms

    def new_claimant(self) -> Claimant:
        """Return a claimant for a driver that starts now."""
        return Claimant(id=uuid.uuid4().hex, newest_term=self.newest_term())

    def claim_term(self, process: Mapping[str, str], claimant: Claimant | None = None) -> int:
        """Claim the run with a new term, one above the newest, and return the term.

        Also remove the files that killed processes left behind in committed stages.

        Args:
            process: The host, process id and time of the claim, for the messages of older processes, which the claim
                fences out.
            claimant: The driver for which a worker claims the run; by default, a driver that starts now.

        Raises:
            FencedOut: if another driver has claimed a term since ``claimant`` started or last claimed a term.
            UserError: if the storage ignores exclusive creation, so that no commit would be safe.
        """
        driver, claimant = claimant, claimant or self.new_claimant()
        if driver is not None:
            self.check_claimant(driver)
        # The claim's unique id distinguishes two claims with otherwise equal content.
        document = {
            "schemaVersion": RUN_FORMAT,
            "claim": uuid.uuid4().hex,
            "claimant": claimant.id,
            "who": dict(process),
        }
        term, before = self.newest_term() + 1, 0
        while not self.create_json(_term_path(term), document):
            if driver is not None:
                self.check_claimant(driver)
            before, term = term, self.newest_term() + 1
            if term == before:
                raise RunFailed(f"{self.store.uri}/{_term_path(term)} can neither be created nor read; remove it")
        if self.create_json(_term_path(term), {"schemaVersion": RUN_FORMAT, "claim": "", "claimant": "", "who": {}}):
            raise self._not_exclusive()
        self._remove_leftovers()
        return term

    def newest_term(self) -> int:
        """Return the highest claimed term, or 0 if no term was claimed."""
        matches = (_TERM.fullmatch(path) for path in self.store.list("terms"))
        return max((int(match[1]) for match in matches if match), default=0)

    def check_term(self, term: int) -> None:
        """Raise ``FencedOut`` if a newer term than ``term`` was claimed. The message names the claiming process."""
        newest = self.newest_term()
        if newest > term:
            raise self._fenced_out(newest, f"this one (term {term})")

    def check_claimant(self, claimant: Claimant) -> None:
        """Raise ``FencedOut`` if a driver other than ``claimant`` has claimed a term since ``claimant`` started."""
        newest = self.newest_term()
        if newest > claimant.newest_term:
            fenced = self._fenced_out(newest, "this one")
            if fenced.claimant != claimant.id:
                raise fenced

    def _fenced_out(self, newest: int, this: str) -> FencedOut:
        document = self.read_json(_term_path(newest)) or {}
        process = ", ".join(f"{name} {value}" for name, value in document.get("who", {}).items()) or "unknown"
        return FencedOut(
            f"{self.store.uri}: another process took over this run (term {newest}: {process}); {this} stops and writes "
            "nothing more",
            claimant=str(document.get("claimant")),
        )

    def probe(self) -> None:
        """Check that a run can be stored here: create a file, fail to create it again, list it, and remove it.

        Raises:
            UserError: if the storage denies access or ignores exclusive creation.
        """
        path = f"check/{uuid.uuid4().hex}.json"
        document = {"schemaVersion": RUN_FORMAT}
        self.create_json(path, document)
        try:
            if self.create_json(path, document):
                raise self._not_exclusive()
            if path not in self.store.list("check"):
                raise RunFailed(f"{self.store.uri}/{path} was written but is not listed")
        finally:
            self.store.delete(path)

    def _not_exclusive(self) -> UserError:
        return UserError.at(
            self.store.uri,
            "the storage ignores exclusive creation (If-None-Match: * on S3), so two runs could overwrite each other; "
            "use a server that honours it",
        )

    # Stages

    def stage_manifest(self, key: str) -> Manifest | None:
        """Return the manifest of stage ``key`` (its number, or ``direct``), or None if it is not committed yet."""
        return read_manifest(self.store, _stage_path(key))

    def record(self, key: str, manifest: Manifest, kind: type[R]) -> R:
        """Return the training record of type ``kind`` in ``manifest``, the manifest of stage ``key``.

        Raises:
            RunFailed: if the manifest does not contain such a record.
        """
        return kind.from_meta(manifest.meta, f"{self.store.uri}/{_stage_path(key)}")

    def commit_stage(
        self, key: str, *, term: int, local: Path, parent: str | None, meta: Mapping[str, JsonValue]
    ) -> Manifest:
        """Commit the files of ``local`` as stage ``key``, and remove the stage's checkpoints of all terms.

        Return the manifest of the stage, which is that of another term if that term committed the stage earlier.

        Raises:
            FencedOut: if a newer term was claimed before the commit.
        """
        manifest = commit_folder(
            self.store,
            folder=stage_folder(key, term),
            local=local,
            manifest_path=_stage_path(key),
            kind="stage",
            term=term,
            parent=parent,
            meta=meta,
            fence=lambda: self.check_term(term),
        )
        self._remove_superseded(key, manifest)
        return manifest

    def fetch_stage(self, key: str, local: Path) -> Manifest:
        """Copy the committed files of stage ``key`` to ``local``, verify them, and return their manifest.

        Raises:
            RunFailed: if the stage is not committed, or a file differs from the committed one.
        """
        manifest = self.stage_manifest(key)
        if manifest is None:
            raise RunFailed(f"{self.store.uri}/{_stage_path(key)} is missing: the stage was not committed")
        fetch_folder(self.store, manifest, folder=stage_folder(key, manifest.term), local=local)
        return manifest

    def _remove_leftovers(self) -> None:
        for path in self.store.list("stages"):
            match = _STAGE.fullmatch(path)
            manifest = self.stage_manifest(match[1]) if match else None
            if match and manifest:
                self._remove_superseded(match[1], manifest)

    def _remove_superseded(self, key: str, manifest: Manifest) -> None:
        """Remove all files of the committed stage ``key`` except its manifest and the files that ``manifest`` lists.

        The other files are never read again.
        """
        kept = stage_folder(key, manifest.term)
        paths = self.store.list(f"stages/{key}")
        folders = {match[1] for match in map(_TERM_FOLDER.match, paths) if match}
        for folder in sorted(folders - {kept}):
            self._remove(folder)

    def _remove(self, folder: str) -> None:
        """Remove ``folder``, manifests first, so that a partly removed folder does not look complete."""
        for path in self.store.list(folder):
            if path.endswith(f"/{MANIFEST_FILE}"):
                self.store.delete(path)
        self.store.delete(folder)

    # Checkpoints

    def save_checkpoint(
        self, key: str, *, term: int, step: int, local: Path, keep: int, meta: Mapping[str, JsonValue]
    ) -> Manifest:
        """Commit the files of ``local`` as a checkpoint of stage ``key``, and keep the newest ``keep`` checkpoints.

        Raises:
            FencedOut: if a newer term was claimed.
        """
        self.check_term(term)
        folder = checkpoint_folder(key, term, step)
        manifest = commit_folder(
            self.store,
            folder=folder,
            local=local,
            manifest_path=f"{folder}/{MANIFEST_FILE}",
            kind="checkpoint",
            term=term,
            parent=None,
            meta={**meta, "step": step},
            fence=lambda: self.check_term(term),
        )
        self._prune(key, keep)
        return manifest

    def latest_checkpoint(self, key: str) -> tuple[Manifest, str] | None:
        """Return the manifest and folder of the checkpoint of stage ``key`` with the most steps, or None.

        Checkpoints of all terms count. One is skipped if its manifest is unreadable or a file is missing or incomplete.
        """
        return next(self._checkpoints(key), None)

    def fetch_checkpoint(self, manifest: Manifest, folder: str, local: Path) -> None:
        """Copy the files of the checkpoint in ``folder`` to ``local``, and check each file against ``manifest``.

        Raises:
            RunFailed: if a file is missing or differs from the committed one; the message names the file.
        """
        fetch_folder(self.store, manifest, folder=folder, local=local)

    def _checkpoints(self, key: str) -> Iterator[tuple[Manifest, str]]:
        """Yield the manifest and folder of every complete checkpoint of stage ``key``, sorted by descending step."""
        sizes = self.store.sizes(f"stages/{key}")
        for folder in _checkpoint_folders(sizes):
            try:
                manifest = read_manifest(self.store, f"{folder}/{MANIFEST_FILE}")
            except RunFailed as error:
                _log.warning("storage: skipped an unusable checkpoint", folder=folder, error=str(error))
                continue
            if manifest is None:
                continue  # removed since the listing
            broken = [n for n, entry in manifest.files.items() if sizes.get(f"{folder}/{n}") != entry.size]
            if broken:
                _log.warning("storage: skipped an unusable checkpoint", folder=folder, missing_or_short=broken)
                continue
            yield manifest, folder

    def _prune(self, key: str, keep: int) -> None:
        whole = [folder for _, folder in self._checkpoints(key)]
        for folder in whole[keep:]:
            self._remove(folder)

    # Documents

    def commit_document(
        self, folder: str, value: Mapping[str, Any], *, term: int, parent: str | None
    ) -> dict[str, Any]:
        """Commit ``value`` as the document of ``folder``, and return the committed value.

        If ``folder`` already has a document with the same ``parent``, return the value of that document instead. A
        document with a different ``parent`` is replaced.

        Raises:
            FencedOut: if a newer term was claimed before the commit.
        """
        self.check_term(term)
        existing = read_manifest(self.store, f"{folder}/{MANIFEST_FILE}")
        if existing is not None and existing.parent != parent:
            self.check_term(term)
            self._remove(folder)
        with tempfile.TemporaryDirectory(prefix="promptintern-") as local:
            Path(local, _DOCUMENT).write_bytes(_json(value))
            commit_folder(
                self.store,
                folder=f"{folder}/t{term}",  # per term, so that a late upload cannot overwrite a committed file
                local=Path(local),
                manifest_path=f"{folder}/{MANIFEST_FILE}",
                kind="document",
                term=term,
                parent=parent,
                meta={},
                fence=lambda: self.check_term(term),
            )
        committed = self.committed_document(folder, parent=parent)
        if committed is None:
            raise RunFailed(
                f"{self.store.uri}/{folder} was removed right after it was created; is the run being deleted?"
            )
        return committed

    def committed_document(self, folder: str, *, parent: str | None) -> dict[str, Any] | None:
        """Return the value of the document of ``folder``, or None if there is none that is based on ``parent``.

        Args:
            parent: The digest of the manifest on which the document is based, or None if it is based on no manifest.

        Raises:
            RunFailed: if the file differs from its manifest.
        """
        manifest = read_manifest(self.store, f"{folder}/{MANIFEST_FILE}")
        if manifest is None or manifest.parent != parent:
            return None
        with tempfile.TemporaryDirectory(prefix="promptintern-") as local:
            fetch_folder(self.store, manifest, folder=f"{folder}/t{manifest.term}", local=Path(local))
            value: dict[str, Any] = json.loads(Path(local, _DOCUMENT).read_bytes())
        return value

    def read_json(self, path: str) -> dict[str, Any] | None:
        """Return the JSON object at ``path``, or None if no file exists. Raise ``RunFailed`` if the file is invalid."""
        try:
            value = json.loads(self.store.read(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunFailed(
                f"{self.store.uri}/{path} is not valid JSON ({error}); remove it, and the run creates it again"
            ) from None
        if not isinstance(value, dict):
            raise RunFailed(f"{self.store.uri}/{path} is not a JSON object; remove it, and the run creates it again")
        return value

    def create_json(self, path: str, value: Mapping[str, Any]) -> bool:
        """Create the JSON file ``path`` with ``value`` unless it exists. Return whether this call created it."""
        return self.store.create(path, _json(value))


def stage_folder(key: str, term: int) -> str:
    """Return the folder, relative to the run's folder, of the files that stage ``key`` commits in ``term``."""
    return f"stages/{key}/t{term}/adapter"


def checkpoint_folder(key: str, term: int, step: int) -> str:
    """Return the folder, relative to the run's folder, of the checkpoint of stage ``key`` after ``step`` steps."""
    return f"stages/{key}/t{term}/checkpoints/step-{step:06d}"


def _checkpoint_folders(paths: Mapping[str, int]) -> list[str]:
    """Return the checkpoint folders whose manifest is in ``paths``, sorted by descending step and descending term."""
    matches = [match for match in map(_CHECKPOINT.fullmatch, paths) if match]
    return [match[1] for match in sorted(matches, key=lambda m: (int(m[3]), int(m[2])), reverse=True)]


def _term_path(term: int) -> str:
    return f"terms/{term}.json"


def _stage_path(key: str) -> str:
    return f"stages/{key}/{MANIFEST_FILE}"


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
