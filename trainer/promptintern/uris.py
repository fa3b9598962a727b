"""Paths and ``file://`` URIs: jobs and runs are named by URIs, people by paths."""

import os
from pathlib import Path
from urllib.parse import unquote

_FILE = "file://"


def to_uri(text: str, base: Path | None = None) -> str:
    """``text`` if it is a URI, else the ``file://`` URI of the path, which is relative to ``base`` (default: here)."""
    if "://" in text:
        return text
    # Not Path.resolve, which fails on loops of symbolic links; whoever opens the file says so better.
    return Path(os.path.abspath((base or Path.cwd()) / Path(text).expanduser())).as_uri()  # noqa: PTH100


def display_uri(uri: str) -> str:
    """How messages name the text: a local one by its path, as one would type it."""
    if not uri.startswith(_FILE):
        return uri
    path = uri.removeprefix(_FILE)
    return unquote(path.removeprefix("localhost") if path.startswith("localhost/") else path)
