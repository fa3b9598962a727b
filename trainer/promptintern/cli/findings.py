"""Problems for programs: the preflight's last words, which the operator reads."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from promptintern.errors import Problem, RunFailed, UserError

_BYTES = 4000
"""A pod's termination message holds 4,096 bytes."""


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


def as_json(problems: tuple[Problem, ...] | list[Problem], *, limit: int = _BYTES) -> str:
    """As many ``problems`` as fit into ``limit`` bytes, and how many do not."""
    shown = [{"where": p.where, "message": p.message[:1000]} for p in problems]
    left = 0
    while True:
        more = [{"where": "", "message": f"and {left} more"}] if left else []
        text = json.dumps(shown + more, ensure_ascii=False)
        if len(text.encode()) <= limit or not shown:
            return text
        shown.pop()
        left += 1
