"""The two ways to end badly: the user's input is wrong (exit 2), or the run failed (exit 1)."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Self

from promptintern_api import Problem

__all__ = [
    "CredentialsRefused",
    "InfrastructureFailed",
    "Problem",
    "RunFailed",
    "UserError",
    "credentials_worked_before",
    "first_line",
]


class UserError(Exception):
    """The job or its data is wrong. ``problems`` holds everything that was found, each at its field or line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)

    @classmethod
    def at(cls, where: str, message: str) -> Self:
        """A single problem at ``where``."""
        return cls([Problem(where=where, message=message)])


class CredentialsRefused(UserError):  # noqa: N818 -- reads as what happened
    """Of credentials. Ones that were good before may have been replaced since, and a new pod is given the new ones."""


class RunFailed(Exception):  # noqa: N818 -- reads as what happened
    """The job was right and the run did not end well: storage, memory, a lost worker. The message says what to do."""


class InfrastructureFailed(RunFailed):
    """What the run needs was away for too long, or taken from it: storage, workers, the run itself. The same again may
    go well.
    """


@contextlib.contextmanager
def credentials_worked_before() -> Iterator[None]:
    """In the block, a storage may refuse credentials only that it took before: who begins anew may have others.

    Raises:
        InfrastructureFailed: in place of ``CredentialsRefused``.
    """
    try:
        yield
    except CredentialsRefused as refused:
        raise InfrastructureFailed(f"{refused}; the same credentials worked earlier in this run") from None


def first_line(error: Exception) -> str:
    """Return the first line of the message of ``error``, or the name of its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
