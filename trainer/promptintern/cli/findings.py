"""What the operator reads of its pods: the preflight's last words, and an exit code."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from promptintern_api.contract import ExitCode

from promptintern.errors import InfrastructureFailed, Problem, RunFailed, UserError

_BYTES = 4000
"""A pod's termination message holds 4,096 bytes."""
_PLACE, _MESSAGE = 200, 1000
"""Most characters of each."""


@contextlib.contextmanager
def noting(path: Path | None) -> Iterator[None]:
    """Write what the block raises to ``path`` as a JSON list of ``{"where", "message"}``, and raise it all the same."""
    try:
        yield
    except UserError as error:
        if path is not None:
            path.write_text(as_json(error.problems))
        raise
    except RunFailed as error:
        if path is not None:
            path.write_text(as_json([Problem(where="", message=str(error))]))
        raise


@contextlib.contextmanager
def infrastructure_told() -> Iterator[None]:
    """Have the process end with ``ExitCode.INFRASTRUCTURE`` if that is what the block fails for."""
    try:
        yield
    except InfrastructureFailed as error:
        print(f"failed: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(ExitCode.INFRASTRUCTURE) from None


def as_json(problems: tuple[Problem, ...] | list[Problem], *, limit: int = _BYTES) -> str:
    """As many ``problems`` as fit into ``limit`` bytes, and how many do not. Of the first, at least a part is told."""
    shown = [(_cut(p.where, _PLACE), _cut(p.message, _MESSAGE)) for p in problems]
    left = 0
    while True:
        more = [("", f"and {left} more")] if left else []
        text = _listed(shown + more)
        if len(text.encode()) <= limit or not shown:
            return text
        if len(shown) == 1:
            ((where, message),) = shown
            return next(
                text
                for length in range(len(message), -1, -1)
                if len((text := _listed([(where, _cut(message, length)), *more])).encode()) <= limit or length == 0
            )
        shown.pop()
        left += 1


def _listed(problems: list[tuple[str, str]]) -> str:
    return json.dumps([{"where": where, "message": message} for where, message in problems], ensure_ascii=False)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: max(characters - 1, 0)] + "…"
