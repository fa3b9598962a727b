"""A list of the problems of a data file. All problems are counted, but only the first ``MAX_LISTED`` are kept."""

from dataclasses import dataclass, field

from promptintern.errors import Problem

MAX_LISTED = 20


@dataclass(kw_only=True)
class ProblemList:
    """A list of problems, which counts all of them, but keeps only the first ``MAX_LISTED``."""

    count: int = 0
    _first: list[Problem] = field(default_factory=list)

    def add(self, where: str, message: str) -> None:
        """Add the problem ``message`` at ``where``."""
        self.count += 1
        if len(self._first) < MAX_LISTED:
            self._first.append(Problem(where=where, message=message))

    def summary(self, *, where: str | None = None) -> list[Problem]:
        """Return the problems that were kept.

        If more problems were added, a further problem states the number of the others. Its place is ``where`` or, by
        default, the place of the last problem that was kept.
        """
        more = self.count - len(self._first)
        if not more:
            return list(self._first)
        return [
            *self._first,
            Problem(where=where or self._first[-1].where, message=f"and {more} more such problems after this one"),
        ]
