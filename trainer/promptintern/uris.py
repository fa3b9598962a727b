"""Conversion between paths, which people type, and ``file://`` URIs, which name jobs and runs."""

import os
from pathlib import Path
from urllib.parse import unquote

_FILE = "file://"


def to_uri(text: str, base: Path | None = None) -> str:
    """Return ``text`` if it is a URI, else the ``file://`` URI of that path.

    A relative path is relative to ``base`` (default: the working directory).
    """
    if "://" in text:
        return text
    # Not Path.resolve, which fails on loops of symbolic links; opening the file gives a better message.
    return Path(os.path.abspath((base or Path.cwd()) / Path(text).expanduser())).as_uri()  # noqa: PTH100


def display_uri(uri: str) -> str:
    """Return the path of a ``file://`` URI, as a user would type it, and any other URI unchanged."""
    if not uri.startswith(_FILE):
        return uri
    path = uri.removeprefix(_FILE)
    return unquote(path.removeprefix("localhost") if path.startswith("localhost/") else path)
