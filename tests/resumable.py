"""The results of programs that run for hours, kept in a file so that they can be stopped and started again."""

import hashlib
import json
from pathlib import Path
from typing import Any


class Results:
    """The results of one version of what is tested, one line of JSON each. Results of other versions are left out."""

    def __init__(self, file: Path, version: str) -> None:
        self._file, self._version = file, version
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text().splitlines() if file.exists() else []
        self.documents: list[dict[str, Any]] = [
            document for line in lines if (document := json.loads(line))["version"] == version
        ]

    def add(self, document: dict[str, Any]) -> None:
        """Store a result, which thereby also becomes one of ``documents``."""
        self.documents.append(document | {"version": self._version})
        with self._file.open("a") as file:
            file.write(json.dumps(self.documents[-1]) + "\n")


def source_version(*files: str | None) -> str:
    """Return a digest of all Python files in the folders of ``files``, such as a package's ``__file__``."""
    digest = hashlib.sha256()
    for file in files:
        root = Path(str(file)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
