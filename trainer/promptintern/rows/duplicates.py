"""When two queries are the same: the one notion of a duplicate, for leaks, warnings and retrieval."""

import unicodedata

_END = ".!?,;:…。！？，；："


def normalise_query(text: str) -> str:
    """``text`` in Unicode form NFC, case-folded, white space collapsed, punctuation at the end removed.

    A query of nothing but such punctuation keeps it.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    collapsed = " ".join(text.casefold().split())
    return collapsed.rstrip(_END + " ") or collapsed
