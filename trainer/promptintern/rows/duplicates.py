"""Normalises queries. Two queries count as equal if they are equal after normalisation."""

import unicodedata

_END = ".!?,;:…。！？，；："


def normalise_query(text: str) -> str:
    """Return ``text`` in Unicode form NFC, case-folded, with single spaces, and without punctuation at the end.

    If ``text`` consists only of such punctuation, the punctuation is kept.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    collapsed = " ".join(text.casefold().split())
    return collapsed.rstrip(_END + " ") or collapsed
