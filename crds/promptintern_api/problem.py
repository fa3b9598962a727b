"""A mistake of the user, with its place."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A mistake in a job or in a file, with its place."""

    where: str
    """The place of the mistake: a field such as ``spec.prompt.template``, or ``file:line``."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"
