"""Parse a job, and report every mistake with the field that has to change."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_snake

from promptintern_api.job import PromptInternJob
from promptintern_api.problem import Problem

MAX_BYTES = 3 * 1024 * 1024
"""The largest request that a Kubernetes API server accepts, in bytes."""


class InvalidJob(ValueError):  # noqa: N818 -- the name says what the document is
    """Raised for a document that is not a valid PromptInternJob; ``problems`` lists all its mistakes."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def parse_job(document: Any) -> PromptInternJob:
    """Parse ``document``, which is plain data as returned by ``yaml.safe_load``, into a job.

    Raises:
        InvalidJob: The document is not a valid job. The error lists every mistake with its field.
    """
    if not isinstance(document, Mapping):
        raise InvalidJob([Problem(where="document", message="is not a mapping; a job begins with apiVersion and kind")])
    try:
        # Strict validation (no number in quotes, no 1 for true) accepts enum values only from JSON.
        return PromptInternJob.model_validate_json(_to_json(document), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidJob([problem for item in error.errors() for problem in _problems(item)]) from None


def _to_json(document: Mapping[str, Any]) -> str:
    """Serialize ``document`` to JSON, but stop after ``MAX_BYTES``, as a few YAML aliases can expand to gigabytes.

    Raises:
        InvalidJob: The document is too large for an API server, contains itself, or has a value that JSON cannot
            represent.
    """
    parts, bytes_left = [], MAX_BYTES
    try:
        for part in json.JSONEncoder(default=_encode_date).iterencode(document):
            parts.append(part)
            bytes_left -= len(part)
            if bytes_left < 0:
                break
    except (ValueError, RecursionError):
        raise InvalidJob([Problem(where="document", message="contains itself or is nested too deeply")]) from None
    except TypeError as error:
        raise InvalidJob(
            [Problem(where="document", message=f"contains a key or value that JSON cannot represent: {error}")]
        ) from None
    if bytes_left < 0:
        message = f"is larger than {MAX_BYTES:,} bytes, the most that an API server accepts"
        raise InvalidJob([Problem(where="document", message=message)])
    return "".join(parts)


def _encode_date(value: object) -> str:
    """Turn a date that YAML parsed from plain text back into text."""
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__}")


def _problems(error: Any) -> list[Problem]:
    where = _path(error["loc"])
    kind, context = error["type"], error.get("ctx", {})
    if kind == "rules":
        prefix = f"{where}." if error["loc"] else ""
        return [Problem(where=f"{prefix}{field}", message=message) for field, message in context["broken"]]
    if kind == "extra_forbidden":
        return [Problem(where=where, message="is not a known field" + _suggestion(error["loc"]))]
    if kind == "missing":
        return [Problem(where=where, message="is required")]
    if kind == "string_pattern_mismatch":
        value = error["input"]
        return [Problem(where=where, message=f"{_abbreviated(value)} {_mismatch(value, context['pattern'])}")]
    message = re.sub(r"^(Input|String|List|Value) ", "", error["msg"])
    return [Problem(where=where, message=f"{message[0].lower()}{message[1:]}, got {_abbreviated(error['input'])}")]


def _mismatch(value: str, pattern: str) -> str:
    """Return why ``value`` does not match ``pattern``; a pattern of URI schemes is described in words."""
    schemes_only = re.fullmatch(r"\^\(([a-z0-9|]+)\)://\.\+\$", pattern)
    if schemes_only is None:
        return f"does not match {pattern}"
    schemes = [f"{scheme}://" for scheme in schemes_only[1].split("|")]
    return "names nothing after the scheme" if value in schemes else f"must start with one of {', '.join(schemes)}"


def _abbreviated(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _path(location: Sequence[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "document"


def _suggestion(location: Sequence[str | int]) -> str:
    names = _fields_at(location[:-1])
    similar = get_close_matches(str(location[-1]), names, n=1)
    if similar:
        return f"; did you mean {similar[0]}?"
    return f"; the known fields are {', '.join(sorted(names))}" if names else ""


def _fields_at(location: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = PromptInternJob
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(to_snake(part))
        nested = _nested_model(field.annotation) if field else None
        if nested is None:
            return []
        model = nested
    return [field.alias or name for name, field in model.model_fields.items()]


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for arg in get_args(annotation) if (model := _nested_model(arg))), None)
