"""Differences between answers that exact match can ignore, by name."""

import re
import unicodedata
from collections.abc import Callable, Collection

from promptintern_api.metrics import Normalizer

from promptintern.sandbox.programs import program_of

_ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)


def _without_punctuation(text: str) -> str:
    """Return ``text`` without the characters of Unicode's categories of punctuation."""
    return "".join(character for character in text if not unicodedata.category(character).startswith("P"))


_FUNCTIONS: dict[Normalizer, Callable[[str], str]] = {
    Normalizer.UNICODE: lambda text: unicodedata.normalize("NFKC", text),
    Normalizer.CODE_FENCE: program_of,
    Normalizer.CASE: str.casefold,
    Normalizer.PUNCTUATION: _without_punctuation,
    Normalizer.ARTICLES: lambda text: _ARTICLES.sub(" ", text),
}


def normalise(text: str, names: Collection[Normalizer] = ()) -> str:
    """Return ``text`` after the normalizers ``names``, in the order of ``Normalizer``, with white space made even.

    White space at the ends is removed, and each inner run of white space becomes one space.
    """
    for name in Normalizer:
        if name in names:
            text = _FUNCTIONS[name](text)
    return " ".join(text.split())
