"""The problems of a file: all are counted, and the first ones are listed."""

from dataclasses import dataclass, field

from promptintern.errors import Problem

MAX_LISTED = 20


@dataclass(kw_only=True)
class ProblemList:
    """Collects problems, but keeps only the first ``MAX_LISTED``."""

    count: int = 0
    _first: list[Problem] = field(default_factory=list)

    def add(self, where: str, message: str) -> None:
        """Add a problem."""
        self.count += 1
        if len(self._first) < MAX_LISTED:
            self._first.append(Problem(where=where, message=message))

    def summary(self, *, where: str | None = None) -> list[Problem]:
        """Return the first problems and the number of further ones, at ``where`` (default: where the last one is)."""
        more = self.count - len(self._first)
        if not more:
            return list(self._first)
        return [
            *self._first,
            Problem(where=where or self._first[-1].where, message=f"and {more} more such problems after this one"),
        ]
