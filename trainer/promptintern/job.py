"""Reading a job from YAML, with fields overridden on the command line."""

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from promptintern_api import InvalidJob, PromptInternJob, parse_job

from promptintern.errors import UserError
from promptintern.uris import to_uri

_URI_FIELDS = (
    ("model", "uri"),
    ("data", "train", "uri"),
    ("data", "queries", "uri"),
    ("data", "eval", "uri"),
    ("evaluation", "retention", "data", "uri"),
    ("storage", "uri"),
    ("prompt", "compressor", "modelUri"),
    ("prompt", "retriever", "modelUri"),
)
_RUN_IDENTITY = ("model", "data", "prompt", "schedule", "training", "evaluation")
"""The fields of a spec that decide what a run computes. If only other fields change, the job continues its run."""
_REPORT_ONLY = ("prices",)
"""The fields of spec.evaluation that change only the report, not the measurements."""


class JobLoader(yaml.SafeLoader):
    """A YAML loader that reads YAML as kubectl does: dates are text, and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the YAML mapping ``node`` as a dict. Raise ``ConstructorError`` if a key is repeated."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} appears twice in one mapping", key.start_mark
                    )
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


JobLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def load_job(path: Path, overrides: Sequence[str] = (), *, sha256: str | None = None) -> PromptInternJob:
    """Return the job in the YAML file ``path`` with ``a.b=c`` overrides applied.

    Args:
        path: The file.
        overrides: The overrides.
        sha256: The digest that the file must have, or None if it may have any.

    Raises:
        UserError: if the file cannot be read, has another digest, does not contain exactly one YAML mapping, or is not
            a valid job.
    """
    return parse_document(read_document(path, overrides, sha256=sha256))


def parse_document(document: dict[str, Any]) -> PromptInternJob:
    """Return the job in ``document``. Raise ``UserError`` if it is not a valid job."""
    try:
        return parse_job(document)
    except InvalidJob as error:
        raise UserError(error.problems) from None


def read_document(path: Path, overrides: Sequence[str] = (), *, sha256: str | None = None) -> dict[str, Any]:
    """Return the YAML mapping in the file ``path`` with ``a.b=c`` overrides applied; it need not be a valid job.

    A URI field may also contain a plain path, which is relative to the file's folder or, in an override, to the working
    directory. The returned URI fields contain URIs.

    Raises:
        UserError: if the file cannot be read, has another digest than ``sha256``, or does not contain exactly one YAML
            mapping.
    """
    try:
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise UserError.at(
                str(path),
                "is not what the operator wrote: its SHA-256 differs. Somebody has replaced the ConfigMap of the "
                "job; find out who may change ConfigMaps in this namespace, then delete the job and create it again",
            )
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError.at(str(path), f"is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError.at(str(path), f"cannot be read: {error.strerror}") from None
    try:
        documents = [d for d in yaml.load_all(text, Loader=JobLoader) if d is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError.at(where, f"is not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError.at(str(path), f"is not valid YAML: {_reason(error)}") from None
    if len(documents) != 1:
        problem = "is empty" if not documents else f"holds {len(documents)} YAML documents"
        raise UserError.at(str(path), f"{problem}; it must hold exactly one job")
    document = documents[0]
    if not isinstance(document, dict):
        raise UserError.at(str(path), "is not a mapping; a job starts with apiVersion and kind")
    return with_overrides(_absolute(document, path.resolve().parent), overrides)


def with_overrides(document: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``document`` with all ``overrides``, which have the form ``a.b=c``, applied.

    The name ``a.b`` is a path below the spec, unless it begins with ``spec``, ``metadata``, ``apiVersion`` or ``kind``.
    The value ``c`` is YAML.

    Raises:
        UserError: if an override lacks ``=``, has a value that is not YAML, or names a field in something other than a
            mapping.
    """
    result = copy.deepcopy(document)
    for override in overrides:
        name, equals, value = override.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise UserError.at(f"--set {override}", "does not have the form a.b=c")
        if keys[0] not in ("spec", "metadata", "apiVersion", "kind"):
            keys = ["spec", *keys]
        node = result
        for key in keys[:-1]:
            if node.get(key) is None:
                node[key] = {}
            node = node[key]
            if not isinstance(node, dict):
                kind = "a list; set it as a whole (a.b=[...])" if isinstance(node, list) else "not a mapping"
                raise UserError.at(f"--set {override}", f"in this job, {key} is {kind}")
        try:
            node[keys[-1]] = yaml.load(value, Loader=JobLoader)  # noqa: S506 -- it is a SafeLoader
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UserError.at(f"--set {override}", "has a value that is not valid YAML") from None
    return _absolute(result, Path.cwd())


def _absolute(document: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return ``document`` with each plain path in a URI field, which is relative to ``base``, as a ``file://`` URI."""
    result = copy.deepcopy(document)
    for *parents, leaf in _URI_FIELDS:
        node = result.get("spec")
        for key in parents:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(value := node.get(leaf), str):
            if value.startswith("file://") and not value.startswith(("file:///", "file://localhost/")):
                value = value.removeprefix("file://")
            if value:
                node[leaf] = to_uri(value, base)
    return result


def run_id(job: PromptInternJob) -> str:
    """Return eight characters that identify the run of ``job``: from the job's uid or, without one, from a digest.

    The digest covers the parts of the spec that decide what the run computes.
    """
    if job.metadata.uid:
        return job.metadata.uid[:8]
    spec = job.spec.to_wire()
    spec["evaluation"] = {name: value for name, value in spec["evaluation"].items() if name not in _REPORT_ONLY}
    identity = json.dumps({key: spec.get(key) for key in _RUN_IDENTITY}, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def run_folder(job: PromptInternJob) -> str:
    """Return the run's folder under the storage URI: ``namespace/name-id``."""
    return f"{job.metadata.namespace}/{job.metadata.name}-{run_id(job)}"
