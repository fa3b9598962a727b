"""Finds the parts of a template that no training row needs, and that training therefore cannot teach."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_ITEM_SEPARATORS = re.compile(r"[,;]|\s\|\s")
_BULLET = re.compile(r"\s*(?:[-*\u2022]|\d+[.)])\s+")
_LABEL = re.compile(r"[^:,;|]{1,40}:\s+")
_WORD = re.compile(r"\w+")
MIN_ITEMS = 3
"""The minimum number of entries of a list."""
MAX_WORDS = 4
"""The maximum number of words of an entry. Longer items are sentences, whose words say little about their use."""
MIN_SENTENCE_WORDS = 3
"""The minimum number of words of a sentence. Shorter texts are labels and cues."""
_SENTENCE_END = re.compile(r"((?<=[.!?])\s+|\n)")


def list_entries(template: str) -> list[str]:
    """Return the entries of all lists in ``template``, in order and without duplicates.

    A list is a line of items that commas, semicolons or vertical bars separate, perhaps after a label such as
    ``Columns:``, or a sequence of lines that begin with a bullet or a number. Only short items of lists with several
    short items count as entries, because other items are sentences.
    """
    entries: list[str] = []
    bullets: list[str] = []
    for line in [*template.split("\n"), ""]:
        bullet = _BULLET.match(line)
        if bullet:
            bullets.append(line[bullet.end() :])
            continue
        entries += _short_items(bullets)
        bullets = []
        label = _LABEL.match(line)
        entries += _short_items(_ITEM_SEPARATORS.split(line[label.end() if label else 0 :]))
    return list(dict.fromkeys(entries))


def _short_items(items: Sequence[str]) -> list[str]:
    """Return the stripped ``items`` if they form a list of entries, or else an empty list."""
    stripped = [item.strip().rstrip(".") for item in items]
    counts = [len(_WORD.findall(item)) for item in stripped]
    is_list = len(stripped) >= MIN_ITEMS and all(0 < count <= MAX_WORDS for count in counts)
    return stripped if is_list else []


def uncovered_entries(template: str, texts: Iterable[str]) -> list[str]:
    """Return the entries of the template's lists of which no word occurs in ``texts``.

    Words are compared without regard to case. A word that several entries contain says nothing about one of them, so it
    counts only for an entry that has no other word.

    Args:
        texts: The queries and the answers from which the model learns.
    """
    entries = list_entries(template)
    if not entries:
        return []
    words_by_entry = {entry: set(_WORD.findall(entry.casefold())) for entry in entries}
    shared = Counter(word for words in words_by_entry.values() for word in words)
    mentioned: set[str] = set()
    for text in texts:
        mentioned.update(_WORD.findall(text.casefold()))
    return [
        entry
        for entry, words in words_by_entry.items()
        if not ({word for word in words if shared[word] == 1} or words) & mentioned
    ]


def sentences(template: str) -> list[str]:
    """Return the sentences of ``template``, in order and without duplicates.

    A sentence ends at a line break, or at a full stop, an exclamation mark or a question mark before a space. Texts of
    fewer than ``MIN_SENTENCE_WORDS`` words, texts with a placeholder, and lists of entries are left out.
    """
    found = []
    for part in _SENTENCE_END.split(template)[::2]:
        text = part.strip()
        if "{query}" in text or "{examples}" in text or list_entries(text):
            continue
        if len(_WORD.findall(text)) >= MIN_SENTENCE_WORDS:
            found.append(text)
    return list(dict.fromkeys(found))


def without_sentence(template: str, sentence: str) -> str:
    """Return ``template`` without all occurrences of ``sentence``, one of its ``sentences``."""
    parts = _SENTENCE_END.split(template)
    return "".join("" if i % 2 == 0 and part.strip() == sentence else part for i, part in enumerate(parts))
