"""The definition of equal queries, which leaks, warnings and retrieval share."""

import unicodedata

_END = ".!?,;:…。！？，；："


def normalise_query(text: str) -> str:
    """Return ``text`` in Unicode form NFC, case-folded, with collapsed white space and without punctuation at its end.

    A query that consists only of such punctuation keeps it.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    collapsed = " ".join(text.casefold().split())
    return collapsed.rstrip(_END + " ") or collapsed
