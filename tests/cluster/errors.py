"""What the test cluster says when it cannot do what was asked."""


class NoCluster(Exception):  # noqa: N818 -- what it is
    """There is no way to run the cluster here. The message names what is missing and what to do."""


class CommandFailed(Exception):  # noqa: N818 -- what it is
    """A program that the cluster runs ended with an error. The message holds what it printed."""

    def __init__(self, argv: list[str], code: int, output: str) -> None:
        super().__init__(f"{' '.join(argv)[:500]} ended with exit code {code}:\n{output[-4000:]}")
        self.code = code
        self.output = output
