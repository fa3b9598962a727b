"""Turning pydantic's errors into what a user reads: a field, and what is wrong with it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_snake

from promptintern_api.job import PromptInternJob

MAX_BYTES = 3 * 1024 * 1024
"""What a Kubernetes API server takes in one request."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, at one place."""

    where: str
    """A field such as ``spec.prompt.template``, or ``file:line``."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class InvalidJob(ValueError):  # noqa: N818 -- what it is, not that it is an error
    """A document that is no PromptInternJob. ``problems`` has every reason."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def parse_job(document: Any) -> PromptInternJob:
    """The job in ``document`` (plain data, as ``yaml.safe_load`` returns it).

    Raises:
        InvalidJob: with all that is wrong, each at its field.
    """
    if not isinstance(document, Mapping):
        raise InvalidJob([Problem(where="document", message="is no mapping; a job starts with apiVersion and kind")])
    try:
        # as JSON, where strict (no number in quotes, no 1 for true) still takes an enum's value
        return PromptInternJob.model_validate_json(_as_json(document), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidJob([p for item in error.errors() for p in _problems(item)]) from None


def _as_json(document: Mapping[str, Any]) -> str:
    """``document`` as text. It is measured while it is written, since a few YAML aliases can stand for gigabytes.

    Raises:
        InvalidJob: if it is too large for an API server, holds itself, or holds what JSON has no word for.
    """
    parts, room = [], MAX_BYTES
    try:
        for part in json.JSONEncoder(default=_time).iterencode(document):
            parts.append(part)
            room -= len(part)
            if room < 0:
                break
    except (ValueError, RecursionError):
        raise InvalidJob([Problem(where="document", message="holds itself, or is nested too deeply")]) from None
    except TypeError as error:
        raise InvalidJob([Problem(where="document", message=f"holds what JSON cannot say: {error}")]) from None
    if room < 0:
        message = f"is larger than {MAX_BYTES:,} bytes, more than an API server takes"
        raise InvalidJob([Problem(where="document", message=message)])
    return "".join(parts)


def _time(value: object) -> str:
    """A date that YAML saw in plain text, as text again."""
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__}")


def _problems(error: Any) -> list[Problem]:
    where = _path(error["loc"])
    kind, context = error["type"], error.get("ctx", {})
    if kind == "rules":
        above = f"{where}." if error["loc"] else ""
        return [Problem(where=f"{above}{field}", message=message) for field, message in context["broken"]]
    if kind == "extra_forbidden":
        return [Problem(where=where, message="is no known field" + _suggestion(error["loc"]))]
    if kind == "missing":
        return [Problem(where=where, message="is required")]
    if kind == "string_pattern_mismatch":
        return [
            Problem(where=where, message=f"{_shown(error['input'])} {_mismatch(error['input'], context['pattern'])}")
        ]
    message = re.sub(r"^(Input|String|List|Value) ", "", error["msg"])
    return [Problem(where=where, message=f"{message[0].lower()}{message[1:]}, got {_shown(error['input'])}")]


def _mismatch(value: str, pattern: str) -> str:
    """In words, where the pattern only asks for one of some schemes."""
    found = re.fullmatch(r"\^\(([a-z0-9|]+)\)://\.\+\$", pattern)
    if found is None:
        return f"does not match {pattern}"
    schemes = [f"{scheme}://" for scheme in found[1].split("|")]
    return "names nothing behind the scheme" if value in schemes else f"starts with none of {', '.join(schemes)}"


def _shown(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _path(location: Sequence[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "document"


def _suggestion(location: Sequence[str | int]) -> str:
    known = _fields_at(location[:-1])
    close = get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(sorted(known))}" if known else ""


def _fields_at(location: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = PromptInternJob
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(to_snake(part))
        nested = _model_in(field.annotation) if field else None
        if nested is None:
            return []
        model = nested
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
