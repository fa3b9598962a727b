"""How a program that a model wrote may end."""

from collections.abc import Sequence
from enum import StrEnum


class Verdict(StrEnum):
    """How a program ended."""

    PASSED = "Passed"
    """Every test passed."""
    FAILED = "Failed"
    """An assertion of a test failed."""
    ERROR = "Error"
    """The program or a test raised an error."""
    EXITED = "Exited"
    """The program ended the process before its tests were over."""
    TIMEOUT = "Timeout"
    MEMORY = "Memory"
    OUTPUT = "Output"
    """The program wrote more than it may, to its output or to files."""
    KILLED = "Killed"
    """A signal ended the process."""


def passed(verdicts: Sequence[Verdict] | None) -> list[bool] | None:
    """Return whether each program passed, or None if no program was run."""
    return None if verdicts is None else [verdict is Verdict.PASSED for verdict in verdicts]
