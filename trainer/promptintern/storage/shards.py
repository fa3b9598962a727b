"""Shards: the folders in which a run stores what its models write before the training, some rows in each.

These are the answers and distributions of its teachers, and the queries that the base model writes.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from promptintern_api.contract import MANIFEST_FILE
from pydantic import JsonValue

from promptintern.storage.manifest import Manifest, commit_folder, fetch_folder, read_manifest
from promptintern.storage.run import RunStore

TEACHER_FOLDER, QUERIES_FOLDER = "teacher", "queries"
_FILE = re.compile(r"(.+/\d+)/(t\d+)/[^/]+")
_MANIFEST = re.compile(rf"(.+/\d+)/{re.escape(MANIFEST_FILE)}")


def shard_manifest(run: RunStore, folder: str) -> Manifest | None:
    """Return the manifest of the shard in ``folder``, or None if the shard is not committed yet."""
    return read_manifest(run.store, f"{folder}/{MANIFEST_FILE}")


def commit_shard(
    run: RunStore, folder: str, *, local: Path, term: int, parent: str | None, meta: Mapping[str, JsonValue]
) -> Manifest:
    """Commit the files of ``local`` as the shard in ``folder``, and remove what other terms left of the shard.

    Return the manifest of the shard, which is that of another term if that term committed the shard earlier.

    Args:
        parent: The digest of the manifest that lists the teacher's adapter, or None for the base model.

    Raises:
        FencedOut: if a newer term was claimed before the commit.
    """
    manifest = commit_folder(
        run.store,
        folder=f"{folder}/t{term}",
        local=local,
        manifest_path=f"{folder}/{MANIFEST_FILE}",
        kind=folder.partition("/")[0],
        term=term,
        parent=parent,
        meta=meta,
        fence=lambda: run.check_term(term),
    )
    _remove_others(run, folder, term)
    return manifest


def remove_shard(run: RunStore, folder: str) -> None:
    """Remove the manifest of the shard in ``folder``, so that the shard counts as missing."""
    run.store.delete(f"{folder}/{MANIFEST_FILE}")


def total_meta(run: RunStore, root: str) -> list[Mapping[str, JsonValue]]:
    """Return the field ``meta`` of the manifest of every committed shard below the folder ``root``."""
    folders = [match[1] for path in run.store.list(root) if (match := _MANIFEST.fullmatch(path))]
    manifests = (shard_manifest(run, folder) for folder in sorted(folders))
    return [manifest.meta for manifest in manifests if manifest is not None]


def remove_leftovers(run: RunStore, root: str, *, term: int) -> None:
    """Remove the files that killed drivers left in the committed shards below the folder ``root``.

    Raises:
        FencedOut: if a newer term than ``term`` was claimed.
    """
    paths = run.store.list(root)
    committed = {match[1] for match in map(_MANIFEST.fullmatch, paths) if match}
    terms = {(match[1], match[2]) for match in map(_FILE.fullmatch, paths) if match}
    for folder in sorted(committed):
        if sum(shard == folder for shard, _ in terms) > 1:
            _remove_others(run, folder, term)


def _remove_others(run: RunStore, folder: str, term: int) -> None:
    """Remove the files of a committed shard that its manifest does not list. They are never read again."""
    others = {path for path in run.store.list(folder) if not path.endswith(f"/{MANIFEST_FILE}")}
    manifest = shard_manifest(run, folder)
    if manifest is not None:
        others -= {f"{folder}/t{manifest.term}/{name}" for name in manifest.files}
        if others:
            run.check_term(term)  # a newer driver may have removed the manifest and committed the shard again
        for path in sorted(others):
            run.store.delete(path)


def fetch_shard(run: RunStore, folder: str, manifest: Manifest, local: Path) -> None:
    """Copy the files of a committed shard to ``local``, and check each file against ``manifest``.

    Raises:
        RunFailed: if a file is missing or differs from the committed one; the message names the file.
    """
    fetch_folder(run.store, manifest, folder=f"{folder}/t{manifest.term}", local=local)


def shard_folder(teacher: str, number: int) -> str:
    """Return the folder of the shard with this number, relative to the run's folder.

    Args:
        teacher: The name of the teacher in storage, such as ``base`` or ``stage-0``.
    """
    return f"{TEACHER_FOLDER}/{teacher}/{number:06d}"
