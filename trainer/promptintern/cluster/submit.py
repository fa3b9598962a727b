"""Submitting a job from a file to a cluster: creating it, or changing or replacing an existing job of the same name."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from promptintern_api import PromptInternJob, PromptInternJobSpec
from promptintern_api.contract import ANNOTATION_RETRY
from promptintern_api.job import MUTABLE_SPEC_FIELDS
from promptintern_api.status import Phase
from pydantic import ValidationError

from promptintern.cluster.api_errors import AlreadyExists, Conflict, NotFound
from promptintern.cluster.objects import Document, Job, now
from promptintern.errors import Problem, UserError
from promptintern.job import parse_document, read_document
from promptintern.uris import display_uri

_SENT_METADATA = ("labels", "annotations")
_TRIES = 3
_MISSING = object()


class SubmitClient(Protocol):
    """The part of a cluster client that ``submit`` needs."""

    namespace: str

    def job(self, name: str) -> Job: ...

    def create(self, document: Document, *, dry_run: bool = False) -> Job: ...

    def replace(self, document: Document, *, dry_run: bool = False) -> Job: ...

    def patch(self, name: str, change: Document, *, dry_run: bool = False) -> Job: ...


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A field whose value in the cluster differs from its value in the file."""

    field: str
    in_cluster: Any
    in_file: Any

    def __str__(self) -> str:
        in_cluster, in_file = _to_json(self.in_cluster), _to_json(self.in_file)
        start = next((i for i, (a, b) in enumerate(zip(in_cluster, in_file, strict=False)) if a != b), 0)
        return f"{self.field}: {_excerpt(in_cluster, start)} in the cluster, {_excerpt(in_file, start)} in the file"


class Action(Enum):
    """The outcome of the command `submit` for the job in the cluster."""

    CREATED = "created"
    UNCHANGED = "unchanged"
    UPDATED = "updated"
    """The job was changed, but only in fields that may change at any time."""
    RETRIED = "retried"
    """The job had been refused or had failed, and is now checked or tried again."""
    REPLACED = "replaced"
    """The whole spec was replaced, because the job had not been accepted yet."""


@dataclass(frozen=True, kw_only=True)
class SubmissionResult:
    """The outcome of `submit`, the job afterwards, and the fields in which the job differed from the file."""

    action: Action
    job: Job
    differences: Sequence[Difference] = ()


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job that was read from a file and can be sent to a cluster."""

    job: PromptInternJob
    document: Document
    """The document to send, which contains only the fields that the file sets."""
    namespace: str | None
    """The namespace in the file, or None if the file names no namespace."""


def read_submission(path: Path, overrides: Sequence[str]) -> Submission:
    """Read the job in the file ``path`` with ``overrides`` applied, and check it like the command `run`.

    Raises:
        UserError: if the job is not valid, or names files that only this machine can read.
    """
    document = read_document(path, overrides)
    job = parse_document(document)
    problems = find_local_paths(job)
    if problems:
        raise UserError(problems)
    # PromptInternJob keeps only the metadata that the trainer needs; labels and annotations come from the file itself.
    metadata = document.get("metadata") or {}
    sent_metadata = {name: metadata[name] for name in _SENT_METADATA if metadata.get(name)}
    return Submission(
        job=job,
        document={
            "apiVersion": job.api_version,
            "kind": job.kind,
            "metadata": {"name": job.metadata.name, **sent_metadata},
            "spec": job.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True),
        },
        namespace=metadata.get("namespace"),
    )


def find_local_paths(job: PromptInternJob) -> list[Problem]:
    """Return a problem for each ``file://`` URI that the job's pods cannot read or write."""
    cache = job.spec.compute.model_cache
    problems = []
    for field, uri in _file_uris(job.spec.to_wire(), "spec"):
        path = PurePosixPath(display_uri(uri))
        mounted = cache is not None and _is_below(path, PurePosixPath(cache.mount_path))
        if mounted and not (field == "spec.storage.uri" and cache is not None and cache.read_only):
            continue
        if mounted:
            message = "is in the model cache, which is mounted read-only; give an s3:// URI"
        else:
            upload = "give an s3:// URI" if field == "spec.storage.uri" else "upload it to S3 and give its s3:// URI"
            folder = "below spec.compute.modelCache.mountPath"
            message = f"{path} is a path on this machine, which pods cannot read; {upload}, or a path {folder}"
            message += f" ({cache.mount_path})" if cache is not None else ""
        problems.append(Problem(where=field, message=message))
    return problems


def _is_below(path: PurePosixPath, folder: PurePosixPath) -> bool:
    return ".." not in path.parts and path.is_relative_to(folder)


def _file_uris(node: Any, where: str) -> list[tuple[str, str]]:
    uris = []
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, str) and key.lower().endswith("uri") and value.startswith("file://"):
            uris.append((f"{where}.{key}", value))
        uris += _file_uris(value, f"{where}.{key}")
    return uris


def submit(cluster: SubmitClient, submission: Submission, *, dry_run: bool = False) -> SubmissionResult:
    """Create the submitted job, or update an existing job of the same name if all fields that differ may still change.

    A job that was refused or has failed is then checked or tried again.

    Raises:
        UserError: if the API server refuses the job, or the spec of the existing job differs and can no longer change.
    """
    document = _in_namespace(submission.document, cluster.namespace)
    for _ in range(_TRIES):
        try:
            return SubmissionResult(action=Action.CREATED, job=cluster.create(document, dry_run=dry_run))
        except AlreadyExists:
            pass
        try:
            return _update_existing(cluster, submission, document, dry_run=dry_run)
        except (NotFound, Conflict):
            continue  # deleted or changed between two requests
    raise UserError.at(f"PromptInternJob {submission.job.metadata.name}", "keeps changing; try again in a moment")


def _in_namespace(document: Document, namespace: str) -> Document:
    return {**document, "metadata": {**document["metadata"], "namespace": namespace}}


def _update_existing(
    cluster: SubmitClient, submission: Submission, document: Document, *, dry_run: bool
) -> SubmissionResult:
    """Update the existing job of the same name to match ``submission``."""
    name = submission.job.metadata.name
    existing = cluster.job(name)
    where = f"PromptInternJob {name}"
    if existing.is_deleting:
        raise UserError.at(where, f"is being deleted; submit it again when it no longer exists: kubectl get pij {name}")
    differences = find_differences(existing, submission)
    fixed = [difference for difference in differences if not _may_change(difference.field)]
    if not fixed and _needs_retry(existing, differences):
        change = _patch(differences)
        change.setdefault("metadata", {}).setdefault("annotations", {})[ANNOTATION_RETRY] = now().isoformat()
        retried = cluster.patch(name, change, dry_run=dry_run)
        return SubmissionResult(action=Action.RETRIED, job=retried, differences=differences)
    if not differences:
        return SubmissionResult(action=Action.UNCHANGED, job=existing)
    if not fixed:
        changed = cluster.patch(name, _patch(differences), dry_run=dry_run)
        return SubmissionResult(action=Action.UPDATED, job=changed, differences=differences)
    if existing.status.start_time is not None or existing.is_over:
        state = f"{existing.status.phase}" if existing.status.phase else "accepted"
        lines = "".join(f"\n  {difference}" for difference in fixed)
        raise UserError.at(
            where,
            f"already exists in namespace {existing.namespace} ({state}), and its spec can no longer change. These "
            f"fields differ:{lines}\n"
            f"  Submit the job under another name (--set metadata.name={_next_name(name)}), or delete the existing one "
            f"first (kubectl delete pij {name}); the files that it stored are kept",
        )
    replacement = {
        **document,
        "metadata": {
            **existing.document["metadata"],
            **{
                key: {**(existing.document["metadata"].get(key) or {}), **document["metadata"].get(key, {})}
                for key in _SENT_METADATA
                if key in document["metadata"]
            },
        },
    }
    return SubmissionResult(
        action=Action.REPLACED, job=cluster.replace(replacement, dry_run=dry_run), differences=differences
    )


def _needs_retry(existing: Job, differences: Sequence[Difference]) -> bool:
    """Return whether nothing happens to ``existing`` unless a retry is requested. A new spec is checked anyway."""
    if existing.status.phase is Phase.REFUSED:
        return existing.is_settled and not any(each.field.startswith("spec.") for each in differences)
    return existing.is_settled and existing.status.phase is Phase.FAILED


def _next_name(name: str) -> str:
    stem, _, number = name.rpartition("-")
    other = f"{stem}-{int(number) + 1}" if stem and number.isdigit() else f"{name}-2"
    return other if len(other) <= 40 else f"{name[:38]}-2"


def _may_change(field: str) -> bool:
    return field.startswith("metadata.") or field.split(".")[1] in MUTABLE_SPEC_FIELDS


def find_differences(existing: Job, submission: Submission) -> list[Difference]:
    """Return the fields that differ between ``existing`` and ``submission``.

    Fields that may change at any time are compared only if the file sets them.
    """
    spec = submission.document["spec"]
    left_out = [name for name in MUTABLE_SPEC_FIELDS if name not in spec]
    in_file = _without(submission.job.spec.to_wire(), left_out)
    in_cluster = _without(_with_defaults(existing.spec), left_out)
    differences = _compare(in_cluster, in_file, "spec")
    for key in _SENT_METADATA:
        stored = existing.document["metadata"].get(key) or {}
        submitted = submission.document["metadata"].get(key) or {}
        differences += [
            Difference(field=f"metadata.{key}.{name}", in_cluster=stored.get(name, _MISSING), in_file=value)
            for name, value in submitted.items()
            if stored.get(name, _MISSING) != value
        ]
    return differences


def _without(document: Document, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


def _with_defaults(spec: Document) -> dict[str, Any]:
    """Return ``spec`` with the defaults of absent fields, or unchanged if this version cannot read it."""
    try:
        return PromptInternJobSpec.model_validate_json(json.dumps(spec), by_alias=True).to_wire()
    except ValidationError:
        return dict(spec)


def _compare(in_cluster: Any, in_file: Any, where: str) -> list[Difference]:
    if isinstance(in_cluster, Mapping) and isinstance(in_file, Mapping):
        names = [*in_cluster, *(name for name in in_file if name not in in_cluster)]
        return [
            difference
            for name in names
            for difference in _compare(in_cluster.get(name, _MISSING), in_file.get(name, _MISSING), f"{where}.{name}")
        ]
    return [] if in_cluster == in_file else [Difference(field=where, in_cluster=in_cluster, in_file=in_file)]


def _patch(differences: Sequence[Difference]) -> dict[str, Any]:
    """Return a JSON merge patch that sets every field in ``differences`` to its value in the file."""
    patch: dict[str, Any] = {}
    for difference in differences:
        # The name of a label or annotation may contain dots; the name of a field cannot.
        keys = (
            difference.field.split(".", 2) if difference.field.startswith("metadata.") else difference.field.split(".")
        )
        node = patch
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = None if difference.in_file is _MISSING else difference.in_file
    return patch


def _to_json(value: Any) -> str:
    return "absent" if value is _MISSING else json.dumps(value, ensure_ascii=False)


def _excerpt(text: str, position: int, limit: int = 60) -> str:
    """Return about ``limit`` characters of ``text`` around ``position``, with ``...`` where text was cut off."""
    if len(text) <= limit:
        return text
    start = max(0, min(position - limit // 3, len(text) - limit))
    return f"{'...' if start else ''}{text[start : start + limit]}{'...' if start + limit < len(text) else ''}"
