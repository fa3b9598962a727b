"""Handling of version skew: a trainer that is newer than the cluster's CRD omits status fields that the CRD lacks.

Server-side apply refuses the whole object, with status 500, if the CRD does not declare one of its fields.
"""

import re
from collections.abc import Callable
from typing import Any

from promptintern.api_status import parse_status
from promptintern.log import get_logger

FieldPath = tuple[str, ...]
"""The path of a field below ``status.training``: the names of the nested fields, without list indices."""
Patch = Callable[[dict[str, Any]], None]

_UNKNOWN = re.compile(r"\.status\.training\.(\S+): field not declared in schema")
_INDEX = re.compile(r"\[[^\]]*\]")
_log = get_logger("promptintern.pod")


def dropping_unknown_fields(patch: Patch) -> Patch:
    """Return a function that calls ``patch``, and repeats the call without the fields unknown to the API server."""
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
    """Return the fields of ``status.training`` that ``message``, an error of the API server, reports as unknown."""
    return {tuple(_INDEX.sub("", path).split(".")) for path in _UNKNOWN.findall(message)}


def remove_fields(training: dict[str, Any], fields: set[FieldPath]) -> dict[str, Any]:
    """Return the status ``training`` without ``fields``; a field below a list is removed from each of its entries."""
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
    """Return the API server's message in ``error``, or the first lines of ``error`` if it contains no such message."""
    message = parse_status(getattr(error, "body", None)).get("message")
    return message or " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
