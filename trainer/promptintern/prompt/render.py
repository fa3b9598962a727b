"""Renders the prompt that the model reads from a template, a query and examples for the query."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from promptintern.errors import UserError
from promptintern.prompt.template import EXAMPLES, QUERY, Piece
from promptintern.rows.types import Row

_EXAMPLE_PLACEHOLDER = re.compile(r"\{(query|answer)\}")


class AnyTemplate(Protocol):
    """A template, either full or compressed."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces of the template, in order."""
        ...


def render_prompt(template: AnyTemplate, *, query: str, examples: Sequence[Row], example_template: str) -> str:
    """Return the prompt for ``query``. Braces in the query and the examples are kept as ordinary text.

    Raises:
        UserError: if there are examples, but the template has no {examples}.
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
    """Return ``row`` as the text of a few-shot example."""
    values = {"query": row.query, "answer": row.answer}
    return "".join(values[part] if odd else part for part, odd in _example_parts(example_template))


@lru_cache(maxsize=8)
def _example_parts(example_template: str) -> tuple[tuple[str, bool], ...]:
    """Split ``example_template`` into literal texts (flagged False) and names of placeholders (flagged True)."""
    return tuple((part, i % 2 == 1) for i, part in enumerate(_EXAMPLE_PLACEHOLDER.split(example_template)) if part)
