"""The results that the operator reads from a job's pods: the problems that the preflight found, and an exit code."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import typer
from promptintern_api.contract import ExitCode

from promptintern.errors import InfrastructureFailed, Problem, RunFailed, UserError
from promptintern.terminal import print_error

_MAX_BYTES = 4000
"""The maximum size of the JSON text in bytes, because a container's termination message holds at most 4,096 bytes."""
_MAX_WHERE, _MAX_MESSAGE = 200, 1000
"""The maximum numbers of characters in the ``where`` and in the ``message`` of a problem."""


@contextlib.contextmanager
def writing_findings(path: Path | None) -> Iterator[None]:
    """If the block fails, write the problems to ``path`` as JSON ``[{"where", "message"}, ...]``, and re-raise."""
    try:
        yield
    except UserError as error:
        if path is not None:
            path.write_text(findings_json(error.problems))
        raise
    except RunFailed as error:
        if path is not None:
            path.write_text(findings_json([Problem(where="", message=str(error))]))
        raise


@contextlib.contextmanager
def exiting_on_infrastructure_failure() -> Iterator[None]:
    """Exit with ``ExitCode.INFRASTRUCTURE`` if the block fails because of the infrastructure."""
    try:
        yield
    except InfrastructureFailed as error:
        print_error(f"failed: {error}")
        raise typer.Exit(ExitCode.INFRASTRUCTURE) from None


def findings_json(problems: tuple[Problem, ...] | list[Problem], *, limit: int = _MAX_BYTES) -> str:
    """Return JSON of at most ``limit`` bytes with as many ``problems`` as fit, and the number of the others.

    The first problem is shortened, if necessary, but never omitted.
    """
    shown = [(_truncate(p.where, _MAX_WHERE), _truncate(p.message, _MAX_MESSAGE)) for p in problems]
    omitted = 0
    while True:
        rest = [("", f"and {omitted} more")] if omitted else []
        text = _to_json(shown + rest)
        if len(text.encode()) <= limit or not shown:
            return text
        if len(shown) == 1:
            ((where, message),) = shown
            return next(
                text
                for length in range(len(message), -1, -1)
                if len((text := _to_json([(where, _truncate(message, length)), *rest])).encode()) <= limit
                or length == 0
            )
        shown.pop()
        omitted += 1


def _to_json(problems: list[tuple[str, str]]) -> str:
    return json.dumps([{"where": where, "message": message} for where, message in problems], ensure_ascii=False)


def _truncate(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: max(characters - 1, 0)] + "…"
