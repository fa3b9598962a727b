"""Errors of the test cluster."""


class NoCluster(Exception):  # noqa: N818 -- a state of the machine
    """This machine cannot run the cluster. The message names what is missing and what to do."""


class CommandFailed(Exception):  # noqa: N818 -- an event
    """A program failed. The message holds its output."""

    def __init__(self, argv: list[str], code: int, output: str) -> None:
        super().__init__(f"{' '.join(argv)[:500]} ended with exit code {code}:\n{output[-4000:]}")
        self.code = code
        self.output = output
