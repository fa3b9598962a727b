"""Conversion between paths, as users type them, and ``file://`` URIs, as jobs and runs store them."""

import os
from pathlib import Path
from urllib.parse import unquote

_FILE = "file://"


def to_uri(text: str, base: Path | None = None) -> str:
    """Return ``text`` if it is a URI, or else the ``file://`` URI of the path ``text``.

    A relative path is relative to ``base`` (default: the working directory).
    """
    if "://" in text:
        return text
    # Path.resolve would fail on loops of symbolic links; opening the file gives a better message.
    return Path(os.path.abspath((base or Path.cwd()) / Path(text).expanduser())).as_uri()  # noqa: PTH100


def display_uri(uri: str) -> str:
    """Return the path in ``uri``, as a user would type it, if it is a ``file://`` URI; otherwise, return ``uri``."""
    if not uri.startswith(_FILE):
        return uri
    path = uri.removeprefix(_FILE)
    return unquote(path.removeprefix("localhost") if path.startswith("localhost/") else path)
