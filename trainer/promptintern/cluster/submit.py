"""From a job in a file to a job in a cluster: what is sent, and what to do where there is one already."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import yaml
from promptintern_api import PromptInternJob, PromptInternJobSpec
from promptintern_api.job import MUTABLE_SPEC_FIELDS
from pydantic import ValidationError

from promptintern.cluster.answers import Changed, Exists, NotFound
from promptintern.cluster.objects import Document, Job
from promptintern.errors import Problem, UserError
from promptintern.job import JobLoader, load_job, with_overrides
from promptintern.uris import display_uri

_SENT_METADATA = ("labels", "annotations")
_TRIES = 3
_MISSING = object()


class Submitting(Protocol):
    """What submitting needs of a cluster."""

    namespace: str

    def job(self, name: str) -> Job: ...

    def create(self, document: Document, *, dry_run: bool = False) -> Job: ...

    def replace(self, document: Document, *, dry_run: bool = False) -> Job: ...

    def patch(self, name: str, change: Document, *, dry_run: bool = False) -> Job: ...


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A field that is one thing in the cluster and another in the file."""

    field: str
    there: Any
    here: Any

    def __str__(self) -> str:
        there, here = _told(self.there), _told(self.here)
        same = next((i for i, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), 0)
        return f"{self.field}: {_around(there, same)} in the cluster, {_around(here, same)} in the file"


class Done(Enum):
    """What submitting did."""

    CREATED = "created"
    UNCHANGED = "unchanged"
    UPDATED = "updated"
    """Fields that may change at any time."""
    REPLACED = "replaced"
    """The spec of a job that was not accepted yet."""


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What submitting came to."""

    done: Done
    job: Job
    differences: Sequence[Difference] = ()


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job as its file says it."""

    job: PromptInternJob
    document: Document
    """What is sent: the fields that the file sets and no others."""
    namespace: str | None
    """As the file says."""


def read_submission(path: Path, overrides: Sequence[str]) -> Submission:
    """The job in ``path``, checked as ``run`` does.

    Raises:
        UserError: if it is no valid job, or names files of this machine.
    """
    job = load_job(path, overrides)
    problems = local_paths(job)
    if problems:
        raise UserError(problems)
    # The model keeps of the metadata what the trainer needs; the rest is the user's own and goes along.
    text = yaml.load(path.read_text(encoding="utf-8"), Loader=JobLoader)  # noqa: S506 -- it is a SafeLoader
    metadata = with_overrides(text, overrides).get("metadata") or {}
    sent = {name: metadata[name] for name in _SENT_METADATA if metadata.get(name)}
    return Submission(
        job=job,
        document={
            "apiVersion": job.api_version,
            "kind": job.kind,
            "metadata": {"name": job.metadata.name, **sent},
            "spec": job.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True),
        },
        namespace=metadata.get("namespace"),
    )


def local_paths(job: PromptInternJob) -> list[Problem]:
    """URIs of files that the job's pods do not have."""
    cache = job.spec.compute.model_cache
    problems = []
    for field, uri in _file_uris(job.spec.to_wire(), "spec"):
        place = PurePosixPath(display_uri(uri))
        mounted = cache is not None and _is_below(place, PurePosixPath(cache.mount_path))
        if mounted and not (field == "spec.storage.uri" and cache is not None and cache.read_only):
            continue
        if mounted:
            message = "lies in the model cache, which is mounted for reading only; give an s3:// URI"
        else:
            upload = "give an s3:// URI" if field == "spec.storage.uri" else "upload it to S3 and give its s3:// URI"
            folder = "below spec.compute.modelCache.mountPath"
            message = f"{place} is a path of this machine, which pods do not see; {upload}, or a path {folder}"
            message += f" ({cache.mount_path})" if cache is not None else ""
        problems.append(Problem(where=field, message=message))
    return problems


def _is_below(place: PurePosixPath, folder: PurePosixPath) -> bool:
    return ".." not in place.parts and place.is_relative_to(folder)


def _file_uris(node: Any, where: str) -> list[tuple[str, str]]:
    found = []
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, str) and key.lower().endswith("uri") and value.startswith("file://"):
            found.append((f"{where}.{key}", value))
        found += _file_uris(value, f"{where}.{key}")
    return found


def submit(cluster: Submitting, submission: Submission, *, dry_run: bool = False) -> Submitted:
    """Create the job. One that exists is changed where it may change.

    Raises:
        UserError: if the API server refuses it, or a job of that name exists whose spec is fixed and differs.
    """
    document = _in_namespace(submission.document, cluster.namespace)
    for _ in range(_TRIES):
        try:
            return Submitted(done=Done.CREATED, job=cluster.create(document, dry_run=dry_run))
        except Exists:
            pass
        try:
            return _meet(cluster, submission, document, dry_run=dry_run)
        except (NotFound, Changed):
            continue  # deleted or changed between two requests
    raise UserError.at(f"PromptInternJob {submission.job.metadata.name}", "changes all the time; try again in a moment")


def _in_namespace(document: Document, namespace: str) -> Document:
    return {**document, "metadata": {**document["metadata"], "namespace": namespace}}


def _meet(cluster: Submitting, submission: Submission, document: Document, *, dry_run: bool) -> Submitted:
    """There is a job of that name already."""
    name = submission.job.metadata.name
    there = cluster.job(name)
    where = f"PromptInternJob {name}"
    if there.deleting:
        raise UserError.at(where, f"is being deleted; submit it again when it is gone: kubectl get pij {name}")
    found = differences(there, submission)
    if not found:
        return Submitted(done=Done.UNCHANGED, job=there)
    fixed = [each for each in found if not _may_change(each.field)]
    if not fixed:
        changed = cluster.patch(name, _patch(found), dry_run=dry_run)
        return Submitted(done=Done.UPDATED, job=changed, differences=found)
    if there.status.start_time is not None or there.over:
        state = f"{there.status.phase}" if there.status.phase else "accepted"
        lines = "".join(f"\n  {each}" for each in fixed)
        raise UserError.at(
            where,
            f"exists already in namespace {there.namespace} ({state}) and its spec is fixed. It differs:{lines}\n"
            f"  Submit under another name (--set metadata.name={_other_name(name)}), or delete that job first "
            f"(kubectl delete pij {name}); what it stored stays",
        )
    replacing = {
        **document,
        "metadata": {
            **there.document["metadata"],
            **{
                key: {**(there.document["metadata"].get(key) or {}), **document["metadata"].get(key, {})}
                for key in _SENT_METADATA
                if key in document["metadata"]
            },
        },
    }
    return Submitted(done=Done.REPLACED, job=cluster.replace(replacing, dry_run=dry_run), differences=found)


def _other_name(name: str) -> str:
    stem, _, number = name.rpartition("-")
    other = f"{stem}-{int(number) + 1}" if stem and number.isdigit() else f"{name}-2"
    return other if len(other) <= 40 else f"{name[:38]}-2"


def _may_change(field: str) -> bool:
    return field.startswith("metadata.") or field.split(".")[1] in MUTABLE_SPEC_FIELDS


def differences(there: Job, submission: Submission) -> list[Difference]:
    """Fields that differ, as people write them; of the ones that may change, those that the file sets."""
    spec = submission.document["spec"]
    left_out = [name for name in MUTABLE_SPEC_FIELDS if name not in spec]
    here = _without(submission.job.spec.to_wire(), left_out)
    other = _without(_with_defaults(there.spec), left_out)
    found = _compare(other, here, "spec")
    for key in _SENT_METADATA:
        known = there.document["metadata"].get(key) or {}
        wanted = submission.document["metadata"].get(key) or {}
        found += [
            Difference(field=f"metadata.{key}.{name}", there=known.get(name, _MISSING), here=value)
            for name, value in wanted.items()
            if known.get(name, _MISSING) != value
        ]
    return found


def _without(document: Document, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


def _with_defaults(spec: Document) -> dict[str, Any]:
    """As this version reads it; as it is, if this version cannot."""
    try:
        return PromptInternJobSpec.model_validate_json(json.dumps(spec), by_alias=True).to_wire()
    except ValidationError:
        return dict(spec)


def _compare(there: Any, here: Any, where: str) -> list[Difference]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        names = [*there, *(name for name in here if name not in there)]
        return [
            each
            for name in names
            for each in _compare(there.get(name, _MISSING), here.get(name, _MISSING), f"{where}.{name}")
        ]
    return [] if there == here else [Difference(field=where, there=there, here=here)]


def _patch(found: Sequence[Difference]) -> dict[str, Any]:
    """A merge patch that makes ``found`` as the file says. A label's name may hold dots, a field's does not."""
    patch: dict[str, Any] = {}
    for each in found:
        keys = each.field.split(".", 2) if each.field.startswith("metadata.") else each.field.split(".")
        node = patch
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = None if each.here is _MISSING else each.here
    return patch


def _told(value: Any) -> str:
    return "absent" if value is _MISSING else json.dumps(value, ensure_ascii=False)


def _around(text: str, place: int, limit: int = 60) -> str:
    """Of a long text the part where ``place`` is."""
    if len(text) <= limit:
        return text
    start = max(0, min(place - limit // 3, len(text) - limit))
    return f"{'...' if start else ''}{text[start : start + limit]}{'...' if start + limit < len(text) else ''}"
