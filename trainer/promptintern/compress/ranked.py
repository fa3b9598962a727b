"""Compression of a template by a ranking of its words.

At each rate, the first words of the ranking are kept, so all words that are kept at a lower rate are also kept at a
higher rate.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from promptintern.prompt.template import LITERAL, Piece, Template, text_runs

_UNIT = re.compile(r"\s*(?:[\u2e80-\u9fff\uf900-\ufaff]|[^\s\u2e80-\u9fff\uf900-\ufaff]+)|\s+")
"""The pattern of a unit: a word, or a character of a script without spaces between words (Chinese, Japanese), with the
white space before it; or white space at the end of a template piece."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A word or character of a template that compression keeps or removes as a whole."""

    text: str
    piece: int
    """The index of the literal template piece that contains the unit."""
    start: int
    """The unit's offset, in characters, in the template's plain text, in which placeholders are empty."""

    @property
    def end(self) -> int:
        """The offset after the unit's last character, in the same text as ``start``."""
        return self.start + len(self.text)


def split_units(template: Template) -> list[Unit]:
    """Return the units of all literal pieces of ``template``, in order. They contain all text of a piece."""
    units, offset = [], 0
    for index, piece in enumerate(template.pieces):
        if piece.kind is LITERAL:
            units += [
                Unit(text=match[0], piece=index, start=offset + match.start()) for match in _UNIT.finditer(piece.text)
            ]
        if piece.is_text:
            offset += len(piece.text)
    return units


def rank_units(scores: Sequence[float]) -> list[int]:
    """Return the indices of ``scores`` by descending score, ties by index. Compression removes the last units first."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


@dataclass(frozen=True, kw_only=True)
class CompressedTemplate:
    """A template compressed to one rate."""

    pieces: tuple[Piece, ...]
    requested_rate: float
    achieved_rate: float
    """The ratio ``tokens / full_tokens``, or 0 for a template without text."""
    tokens: int
    """The number of tokens in the remaining text, including protected text, with the training model's tokenizer."""
    full_tokens: int
    """The number of tokens in the full template (rate 1)."""

    @property
    def text(self) -> str:
        """The text for display. Prompts are built from ``pieces``, because literal text may look like a placeholder."""
        return "".join(piece.text for piece in self.pieces)


def count_tokens(pieces: Iterable[Piece], tokenizer: Any) -> int:
    """Return the number of tokens in ``pieces``, excluding special tokens.

    Each text between placeholders is tokenized alone.
    """
    runs = text_runs(pieces)
    if not runs:
        return 0
    return sum(map(len, tokenizer(runs, add_special_tokens=False, verbose=False)["input_ids"]))


def uncompressed(template: Template, tokenizer: Any) -> CompressedTemplate:
    """Return ``template`` without compression (rate 1), with its number of tokens."""
    full = count_tokens(template.pieces, tokenizer)
    return compressed_template(template.pieces, rate=1.0, tokens=full, full_tokens=full)


def compressed_template(pieces: tuple[Piece, ...], *, rate: float, tokens: int, full_tokens: int) -> CompressedTemplate:
    """Return a ``CompressedTemplate`` of ``pieces``, with the rate that was achieved."""
    achieved = tokens / full_tokens if full_tokens else 0.0
    return CompressedTemplate(
        pieces=pieces, requested_rate=rate, achieved_rate=achieved, tokens=tokens, full_tokens=full_tokens
    )


@dataclass(frozen=True, kw_only=True)
class RankedTemplate:
    """A template and the ranking of its units, from the most to the least important."""

    template: Template
    units: Sequence[Unit]
    ranking: Sequence[int]
    tokenizer: Any

    def __post_init__(self) -> None:
        assert sorted(self.ranking) == list(range(len(self.units)))

    @cached_property
    def full_tokens(self) -> int:
        """The number of tokens in the full template (rate 1)."""
        return count_tokens(self.template.pieces, self.tokenizer)

    def compress(self, rate: float) -> CompressedTemplate:
        """Return the template compressed to ``rate`` (0 to 1), with as many of the top-ranked units as fit the rate.

        Rate 1 leaves the template unchanged, and rate 0 keeps only protected pieces and placeholders. Protected text is
        kept even if it alone exceeds the rate. The number of units to keep is found by bisection. Removing a word can
        change how its neighbours are tokenized, so the token count may fall when more units are kept. Even so, the
        result is within the rate (unless protected text alone exceeds it), and a lower rate never keeps more units than
        a higher rate.
        """
        assert 0 <= rate <= 1
        if rate >= 1:
            return compressed_template(
                self.template.pieces, rate=rate, tokens=self.full_tokens, full_tokens=self.full_tokens
            )
        budget = rate * self.full_tokens
        kept, beyond = 0, (len(self.units) + 1 if rate > 0 else 1)
        while beyond - kept > 1:
            middle = (kept + beyond) // 2
            if count_tokens(self.keep(middle), self.tokenizer) <= budget:
                kept = middle
            else:
                beyond = middle
        pieces = self.keep(kept)
        return compressed_template(
            pieces, rate=rate, tokens=count_tokens(pieces, self.tokenizer), full_tokens=self.full_tokens
        )

    def keep(self, count: int) -> tuple[Piece, ...]:
        """Return the pieces of the template, in which only the first ``count`` units of the ranking are kept."""
        kept: dict[int, list[str]] = {}
        for index in sorted(self.ranking[:count]):
            kept.setdefault(self.units[index].piece, []).append(self.units[index].text)
        return tuple(
            piece if piece.kind is not LITERAL else Piece(text="".join(kept[i]), kind=LITERAL)
            for i, piece in enumerate(self.template.pieces)
            if piece.kind is not LITERAL or i in kept
        )
