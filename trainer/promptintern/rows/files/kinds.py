"""The kinds of files that hold no lines of text. They are known by their first bytes, whatever their names are."""

import json

HEAD_BYTES = 512
"""The number of bytes at the beginning of a file by which its kind is known."""
_UNPACK = "; unpack it first"
_ARROW = (
    'is an Arrow file; write it as Parquet, with dataset.to_parquet("rows.parquet") if a data set was saved to disk'
)
_WORKBOOK = "is a workbook or another office document; save the sheet as CSV in UTF-8"
_UNWRITTEN = "begins with zero bytes, so it was probably not written completely; write it again"
_SIGNATURES = (
    (0, b"PAR1", "is a Parquet file; set format: Parquet, and unpack it first if it is packed with gzip or Zstandard"),
    (0, b"\x1f\x8b", f"is packed with gzip{_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"is packed with Zstandard{_UNPACK}"),
    (0, b"\xfd7zXZ\x00", f"is packed with xz{_UNPACK}"),
    (4, b"1AY&SY", f"is packed with bzip2{_UNPACK}"),
    (0, b"\x04\x22\x4d\x18", f"is packed with LZ4{_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"is a 7z archive{_UNPACK}"),
    (257, b"ustar", f"is a tar archive{_UNPACK}"),
    (30, b"[Content_Types].xml", _WORKBOOK),
    (30, b"mimetypeapplication/vnd.oasis", _WORKBOOK),
    (0, b"\xd0\xcf\x11\xe0", _WORKBOOK),
    (0, b"PK\x03\x04", f"is a zip archive{_UNPACK}"),
    (0, b"ARROW1", _ARROW),
    (0, b"FEA1", _ARROW),
    (0, b"\xff\xff\xff\xff", _ARROW),
    (0, b"SQLite format 3", "is an SQLite database; export the table as CSV"),
    (0, b"%PDF-", "is a PDF document; give its rows as JSON Lines or CSV"),
    (
        0,
        b"version https://git-lfs",
        "is a pointer of Git LFS and not the file itself; fetch the file with git lfs pull",
    ),
    (0, b"<!", "is a page in HTML and not data; was it downloaded from the address of a page?"),
    (0, b"<html", "is a page in HTML and not data; was it downloaded from the address of a page?"),
    (0, b"\xff\xfe\0\0", "is UTF-32 text; save it as UTF-8"),
    (0, b"\0\0\xfe\xff", "is UTF-32 text; save it as UTF-8"),
    (0, b"\xff\xfe", "is UTF-16 text; save it as UTF-8"),
    (0, b"\xfe\xff", "is UTF-16 text; save it as UTF-8"),
    (0, b"\0\0\0\0", _UNWRITTEN),
)
"""Offsets, the bytes there, and what such a file is and what to do. Of several that match, the first counts."""


def describe_kind(head: bytes) -> str | None:
    """Return what a file that begins with ``head`` is and what to do, or None if it may be text in UTF-8."""
    for offset, magic, description in _SIGNATURES:
        if head.startswith(magic, offset):
            return description
    encoding = json.detect_encoding(head[:4])  # text without a mark: every other byte, or three of four, are zero
    return None if encoding.startswith("utf-8") else f"is {encoding[:6].upper()} text; save it as UTF-8"
