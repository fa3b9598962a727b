"""A trainer that is newer than the cluster's PromptInternJob: what the API server does not know is left out.

Server-side apply refuses an object with a field that its CRD does not declare, the whole of it, with status 500.
"""

import re
from collections.abc import Callable
from typing import Any

import structlog

from promptintern.refusal import status_object

FieldPath = tuple[str, ...]
"""Names of fields below ``status.training``; an entry's place in a list does not count."""
Patch = Callable[[dict[str, Any]], None]

_UNKNOWN = re.compile(r"\.status\.training\.(\S+): field not declared in schema")
_INDEX = re.compile(r"\[[^\]]*\]")
_log = structlog.get_logger("promptintern.pod")


def dropping_unknown_fields(patch: Patch) -> Patch:
    """``patch``, again without the fields that the API server calls unknown, now and from then on."""
    unknown: set[FieldPath] = set()

    def patch_known_fields(training: dict[str, Any]) -> None:
        while True:
            try:
                return patch(remove_fields(training, unknown))
            except Exception as error:
                new = parse_unknown_fields(error_message(error)) - unknown
                if not new:
                    raise
                unknown.update(new)
                names = ", ".join(sorted(".".join(path) for path in new))
                _log.warning("the cluster's CRD is older than this trainer: upgrade the chart", unknown=names)

    return patch_known_fields


def parse_unknown_fields(message: str) -> set[FieldPath]:
    """The fields of ``status.training`` that an answer of the API server calls unknown."""
    return {tuple(_INDEX.sub("", path).split(".")) for path in _UNKNOWN.findall(message)}


def remove_fields(training: dict[str, Any], fields: set[FieldPath]) -> dict[str, Any]:
    """``training`` without ``fields``, in every entry of the lists on their way."""
    remaining: dict[str, Any] = {}
    for name, value in training.items():
        if (name,) in fields:
            continue
        below = {path[1:] for path in fields if path[0] == name}
        if isinstance(value, dict):
            remaining[name] = remove_fields(value, below)
        elif isinstance(value, list):
            remaining[name] = [remove_fields(entry, below) if isinstance(entry, dict) else entry for entry in value]
        else:
            remaining[name] = value
    return remaining


def error_message(error: BaseException) -> str:
    """What the API server answered, or the error's first lines if it did not."""
    message = status_object(getattr(error, "body", None)).get("message")
    return message or " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
