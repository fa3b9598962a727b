"""A trainer that is newer than the cluster's PromptInternJob: what the API server does not know is left out.

Server-side apply refuses an object with a field that its CRD does not declare, the whole of it, with status 500.
"""

import re
from collections.abc import Callable
from typing import Any

import structlog

from promptintern.api_status import parse_status

FieldPath = tuple[str, ...]
"""Names of fields below ``status.training``; an entry's place in a list does not count."""
Patch = Callable[[dict[str, Any]], None]

_UNKNOWN = re.compile(r"\.status\.training\.(\S+): field not declared in schema")
_PLACE = re.compile(r"\[[^\]]*\]")
_log = structlog.get_logger("promptintern.pod")


def leaving_out_unknown(patch: Patch) -> Patch:
    """``patch``, again without the fields that the API server calls unknown, now and from then on."""
    unknown: set[FieldPath] = set()

    def patch_what_is_known(training: dict[str, Any]) -> None:
        while True:
            try:
                return patch(without(training, unknown))
            except Exception as error:
                new = unknown_fields(said(error)) - unknown
                if not new:
                    raise
                unknown.update(new)
                names = ", ".join(sorted(".".join(path) for path in new))
                _log.warning("the cluster's CRD is older than this trainer: upgrade the chart", unknown=names)

    return patch_what_is_known


def unknown_fields(message: str) -> set[FieldPath]:
    """The fields of ``status.training`` that an answer of the API server calls unknown."""
    return {tuple(_PLACE.sub("", path).split(".")) for path in _UNKNOWN.findall(message)}


def without(training: dict[str, Any], fields: set[FieldPath]) -> dict[str, Any]:
    """``training`` without ``fields``, in every entry of the lists on their way."""
    left: dict[str, Any] = {}
    for name, value in training.items():
        if (name,) in fields:
            continue
        below = {path[1:] for path in fields if path[0] == name}
        if isinstance(value, dict):
            left[name] = without(value, below)
        elif isinstance(value, list):
            left[name] = [without(each, below) if isinstance(each, dict) else each for each in value]
        else:
            left[name] = value
    return left


def said(error: BaseException) -> str:
    """What the API server answered, or the error's first lines if it did not."""
    message = parse_status(getattr(error, "body", None)).get("message")
    return message or " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
