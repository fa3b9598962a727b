"""What the operator has logged since the last look at its log."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LONGEST_LINE = 64 * 2**10
"""The largest line in bytes that is in order. Log collectors split or drop longer ones."""
_RETRIES = 4
"""The number of failures of one job, within one batch, from which on the job counts as stuck."""


@dataclass
class LogExcerpt:
    """A part of the operator's log."""

    size: int = 0
    longest: int = 0
    """The size of the longest line in bytes."""
    failures: Counter[str] = field(default_factory=Counter)
    """The number of failed reconciliations by job."""
    errors: dict[str, str] = field(default_factory=dict)
    """The last error of each job whose reconciliation failed."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """What the operator could not read of each job that the API server had accepted."""
    skipped: list[str] = field(default_factory=list)
    """The kind, namespace and name of each skipped object."""
    others: Counter[str] = field(default_factory=Counter)
    """The number of other warnings and errors, by event."""
    tracebacks: list[str] = field(default_factory=list)
    """The lines that hold a traceback."""

    def stuck(self) -> dict[str, str]:
        """Return the last error of each job whose reconciliation failed again and again."""
        return {job: self.errors[job] for job, count in self.failures.items() if count >= _RETRIES}

    def add(self, line: str) -> None:
        """Add a line of the log."""
        self.longest = max(self.longest, len(line.encode()))
        if "Traceback" in line:
            self.tracebacks.append(line[-3_000:])
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            self.others[f"not JSON: {line[:100]}"] += 1
            return
        job, event = str(entry.get("job")), str(entry.get("event"))
        match event:
            case "reconcile failed":
                self.failures[job] += 1
                self.errors[job] = str(entry["error"])[:1_000]
            case "cannot parse the job":
                self.unreadable[job] = str(entry["problems"])[:1_000]
            case "object skipped":
                self.skipped.append(f"{entry['kind']} {entry.get('namespace')}/{entry.get('name')}: {entry['why']}")
            case _ if entry.get("level") in ("warning", "error", "critical"):
                self.others[event[:100]] += 1


class LogReader:
    """A reader that returns each part of the log once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0

    def read(self) -> LogExcerpt:
        """Return what has been logged since the last call, up to the last complete line."""
        excerpt = LogExcerpt()
        with self._file.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        self._offset += len(content)
        excerpt.size = len(content)
        for line in content.decode(errors="replace").split("\n")[:-1]:
            excerpt.add(line)
        return excerpt
