"""Reads JSON Lines. Each line of a file yields an object, or a problem at that line."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from promptintern.rows.files.kinds import HEAD_BYTES, describe_kind
from promptintern.rows.problems import ProblemList
from promptintern.rows.record import describe_type

MAX_LINE_BYTES = 16 * 2**20
"""The largest size of a line in bytes. A file with a longer line is probably a single JSON document, or not text."""
_BOM = b"\xef\xbb\xbf"


class DuplicateKeyError(ValueError):
    """The error for a JSON object that has a key twice. Without it, one of the values would be lost silently."""


def read_lines(
    file: Any, problems: ProblemList, *, file_name: str, keep_all: bool = False
) -> Iterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the content of each non-blank line, without line end and byte order mark.

    If the file has another format, or a line is too long, a problem is added to ``problems``.

    Args:
        file: A binary reader that can ``peek``.
        problems: The problems found so far.
        file_name: The name of the file, for problems.
        keep_all: Whether to yield blank lines, too, and each line with its end.
    """
    if wrong := describe_kind(file.peek(HEAD_BYTES)[:HEAD_BYTES]):
        problems.add(file_name, wrong)
        return
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) > MAX_LINE_BYTES:
            problems.add(
                f"{file_name}:{number}", f"is longer than {MAX_LINE_BYTES // 2**20} MiB; give one JSON object per line"
            )
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            continue
        if keep_all:
            yield number, line
            continue
        line = line.rstrip(b"\r\n")
        if line.strip():
            yield number, line


def parse_objects(
    lines: Iterable[tuple[int, bytes]], problems: ProblemList, *, file_name: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the JSON object of each valid line. For other lines, problems are added."""
    for number, line in lines:
        where = f"{file_name}:{number}"
        try:
            value = json.loads(line.decode(), object_pairs_hook=_unique)
        except UnicodeDecodeError as error:
            problems.add(where, f"is not UTF-8 text (byte {error.start + 1} of the line is 0x{line[error.start]:02x})")
        except json.JSONDecodeError as error:
            problems.add(where, f"is not valid JSON: {error.msg} (column {error.colno}){_hint(line)}")
        except DuplicateKeyError as error:
            problems.add(where, str(error))
        except (ValueError, RecursionError):
            problems.add(where, "is not valid JSON: too deeply nested, or a number with too many digits")
        else:
            if isinstance(value, dict):
                yield number, value
            else:
                problems.add(where, f"is {describe_type(value)}; give one JSON object per line")


def describe_wrapped(record: Mapping[str, Any]) -> str | None:
    """Return what is wrong if ``record``, the only one of a file, holds the rows in a list, or None if it does not."""
    for name, value in record.items():
        if isinstance(value, list) and len(value) > 1 and all(isinstance(item, dict) for item in value):
            return (
                f"is one JSON object, whose list {name!r} holds {len(value)} objects; if these are the rows, write "
                "each of them on a line of its own"
            )
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DuplicateKeyError(f"has the key {twice!r} twice")
    return result


def _hint(line: bytes) -> str:
    if line.strip() in (b"[", b"{"):
        return "; the file looks like one JSON document; give one object per line"
    return ""
