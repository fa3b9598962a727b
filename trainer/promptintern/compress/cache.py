"""A disk cache of template scores, keyed by a digest of all their inputs. Losing the cache costs only time."""

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_VERSION = 1
"""The version of the scoring code. Increase it when a change of the code changes the scores of an input."""


def cache_key(**parts: Any) -> str:
    """Return the SHA-256 digest of ``parts`` (plain data). Equal parts have the same digest in every process."""
    text = json.dumps({"version": _VERSION, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the SHA-256 digest of the full definition of ``tokenizer``, a fast tokenizer."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ScoreCache:
    """A cache of scores in JSON files ``KEY.json`` in ``folder``. Each file is written completely or not at all."""

    folder: Path

    def get(self, key: str, compute: Callable[[], list[float]], *, count: int) -> list[float]:
        """Return the ``count`` scores stored under ``key``, after computing and storing them if necessary.

        Scores are computed again if their file is unreadable or invalid, and are not stored if the folder is not
        writable.
        """
        stored = self._read(key, count)
        if stored is not None:
            return stored
        scores = compute()
        with contextlib.suppress(OSError):
            self._write(key, scores)
        return scores

    def _read(self, key: str, count: int) -> list[float] | None:
        try:
            document = json.loads((self.folder / f"{key}.json").read_text())
        except (OSError, ValueError, RecursionError):
            return None
        scores = document.get("scores") if isinstance(document, dict) and document.get("key") == key else None
        if not isinstance(scores, list) or len(scores) != count:
            return None
        if not all(isinstance(score, float) and math.isfinite(score) for score in scores):
            return None
        return scores

    def _write(self, key: str, scores: list[float]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{key[:16]}-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump({"key": key, "scores": scores}, file)
            Path(name).replace(self.folder / f"{key}.json")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
