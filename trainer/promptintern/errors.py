"""The exceptions with which a command fails, because the user's input is wrong or because the run failed."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Self

from promptintern_api.problem import Problem

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
    """The user has to correct something, such as the job or its data. ``problems`` lists each problem and its place."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)

    @classmethod
    def at(cls, where: str, message: str) -> Self:
        """Return an error with one problem: ``message``, which concerns the field, file or line ``where``."""
        return cls([Problem(where=where, message=message)])


class CredentialsRefused(UserError):  # noqa: N818 -- reads as what happened
    """The credentials are missing or refused.

    If the same credentials worked earlier, they may have been replaced; a new pod gets the new ones.
    """


class RunFailed(Exception):  # noqa: N818 -- reads as what happened
    """The job is valid, but the run failed, for example because of storage, memory or a lost worker.

    The message says what to do.
    """


class InfrastructureFailed(RunFailed):
    """Something that the run needs, such as storage or workers, was lost or was unavailable for too long.

    This also covers the case that another process has taken over the run. A retry of the same command may succeed.
    """


@contextlib.contextmanager
def credentials_worked_before() -> Iterator[None]:
    """Inside this block, treat refused credentials as an infrastructure failure.

    The same credentials worked earlier in this run, and the next attempt may get new credentials.

    Raises:
        InfrastructureFailed: in place of ``CredentialsRefused``.
    """
    try:
        yield
    except CredentialsRefused as refused:
        raise InfrastructureFailed(f"{refused}; the same credentials worked earlier in this run") from None


def first_line(error: Exception) -> str:
    """Return the first line of the message of ``error``, or the name of its type if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
