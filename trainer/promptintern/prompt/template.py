"""Parses the user's template into pieces once, so that braces in its literal text are never taken for placeholders."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from promptintern.errors import Problem, UserError

_PLACEHOLDER = re.compile(r"\{(query|examples)\}")


class PieceKind(Enum):
    """The kind of a template piece."""

    LITERAL = "literal"
    """Text from which compression may remove words."""
    PROTECTED = "protected"
    """Text that is kept at every rate."""
    QUERY = "query"
    EXAMPLES = "examples"


LITERAL, PROTECTED, QUERY, EXAMPLES = PieceKind.LITERAL, PieceKind.PROTECTED, PieceKind.QUERY, PieceKind.EXAMPLES


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A piece of a template: literal or protected text, or a placeholder, whose ``text`` is the placeholder itself."""

    text: str
    kind: PieceKind

    @property
    def is_text(self) -> bool:
        """Whether the piece is text rather than a placeholder."""
        return self.kind in (LITERAL, PROTECTED)


@dataclass(frozen=True, kw_only=True)
class Template:
    """A template that is split into pieces. The concatenated texts of the pieces are the template."""

    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """The template as the user wrote it."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def plain_text(self) -> str:
        """The template without its placeholders. Compressors read this text."""
        return "".join(piece.text for piece in self.pieces if piece.is_text)


def text_runs(pieces: Iterable[Piece]) -> list[str]:
    """Return the texts between placeholders, in order. Adjacent pieces are joined, and empty texts are left out."""
    runs = [""]
    for piece in pieces:
        if piece.is_text:
            runs[-1] += piece.text
        else:
            runs.append("")
    return [run for run in runs if run]


def parse_template(text: str, protect: Sequence[str] = (), *, field: str = "spec.prompt.template") -> Template:
    """Split ``text`` into pieces. Every occurrence of a string in ``protect`` is protected; occurrences may overlap.

    ``{query}`` and ``{examples}`` are placeholders; all other braces are literal text.

    Raises:
        UserError: if ``text`` does not contain ``{query}`` exactly once or contains ``{examples}`` more than once, or
            if a string in ``protect`` does not occur in the text outside the placeholders.
    """
    pieces: list[Piece] = []
    protected_spans: set[str] = set()
    end = 0
    for match in _PLACEHOLDER.finditer(text):
        pieces += _protected_pieces(text[end : match.start()], protect, protected_spans)
        pieces.append(Piece(text=match[0], kind=PieceKind(match[1])))
        end = match.end()
    pieces += _protected_pieces(text[end:], protect, protected_spans)
    problems = [*_placeholder_problems(pieces, field), *_protect_problems(protect, protected_spans, field)]
    if problems:
        raise UserError(problems)
    return Template(pieces=tuple(pieces))


def _placeholder_problems(pieces: Sequence[Piece], field: str) -> list[Problem]:
    count = {kind: sum(piece.kind is kind for piece in pieces) for kind in (QUERY, EXAMPLES)}
    problems = []
    if count[QUERY] != 1:
        problems.append(Problem(where=field, message=f"must contain {{query}} exactly once, not {count[QUERY]} times"))
    if count[EXAMPLES] > 1:
        problems.append(
            Problem(where=field, message=f"may contain {{examples}} at most once, not {count[EXAMPLES]} times")
        )
    return problems


def _protect_problems(protect: Sequence[str], protected_spans: set[str], field: str) -> list[Problem]:
    return [
        Problem(
            where=f"spec.prompt.protect[{index}]",
            message=f"does not occur in the literal text of {field}; copy it exactly, including spaces and line breaks",
        )
        for index, span in enumerate(protect)
        if span not in protected_spans
    ]


def _protected_pieces(text: str, protect: Sequence[str], protected_spans: set[str]) -> list[Piece]:
    """Split ``text``, which contains no placeholder, into literal and protected pieces.

    Strings of ``protect`` that occur in ``text`` are protected, and are added to ``protected_spans``.
    """
    protected = bytearray(len(text))
    for span in protect:
        start = text.find(span) if span else -1
        while start >= 0:
            protected_spans.add(span)
            protected[start : start + len(span)] = b"\1" * len(span)
            start = text.find(span, start + 1)
    borders = [i for i in range(1, len(text)) if protected[i] != protected[i - 1]]
    return [
        Piece(text=text[a:b], kind=PROTECTED if protected[a] else LITERAL)
        for a, b in zip([0, *borders], [*borders, len(text)], strict=True)
        if a < b
    ]
