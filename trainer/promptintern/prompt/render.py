"""A template, a query and its examples become the prompt that is sent."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from promptintern.errors import UserError
from promptintern.prompt.template import EXAMPLES, QUERY, Piece
from promptintern.rows.types import Row

_EXAMPLE_PLACEHOLDER = re.compile(r"\{(query|answer)\}")


class AnyTemplate(Protocol):
    """A template, full or compressed."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Its pieces in order."""
        ...


def render_prompt(template: AnyTemplate, *, query: str, examples: Sequence[Row], example_template: str) -> str:
    """The prompt for ``query``, in a single pass: braces in queries, answers and examples stay as they are.

    Raises:
        UserError: if there are examples and the template has no place for them.
    """
    block = "".join(render_example(row, example_template) for row in examples)
    values = {QUERY: query, EXAMPLES: block}
    if block and not any(piece.kind is EXAMPLES for piece in template.pieces):
        raise UserError.at(
            "spec.prompt",
            "the stage has shots, but its template has no {examples}; add the placeholder, or set the stage's shots "
            "to 0",
        )
    return "".join(piece.text if piece.is_text else values[piece.kind] for piece in template.pieces)


def render_example(row: Row, example_template: str) -> str:
    """One few-shot example."""
    values = {"query": row.query, "answer": row.answer}
    return "".join(values[part] if odd else part for part, odd in _example_parts(example_template))


@lru_cache(maxsize=8)
def _example_parts(example_template: str) -> tuple[tuple[str, bool], ...]:
    """Literal text and, flagged, names of placeholders."""
    return tuple((part, i % 2 == 1) for i, part in enumerate(_EXAMPLE_PLACEHOLDER.split(example_template)) if part)
