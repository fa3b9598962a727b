"""Network namespaces of the kernel: separate hosts on this machine, which end with this process and leave nothing."""

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster import guard
from tests.cluster.errors import CommandFailed
from tests.cluster.paths import search_path

_CLONE_NEWNET = 0x40000000
_OWN = Path("/proc/thread-self/ns/net")
_START_SECONDS = 30


class Namespace:
    """A network namespace, which exists as long as the process that holds it."""

    def __init__(self) -> None:
        own = _OWN.readlink()
        self._holder = guard.start(["unshare", "--net", "sleep", "infinity"])
        self.pid = self._holder.pid
        """The process that holds the namespace; `ip link set ... netns PID` moves an interface into it."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_held(own):
            if self._holder.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("unshare --net made no network namespace; are you root?")
            time.sleep(0.01)
        self.ip("link set lo up")

    def _is_held(self, own: Path) -> bool:
        """Whether `unshare` has become `sleep`, in a namespace other than ``own``."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/comm").read_text().strip() == "sleep" and self.path.readlink() != own
        return False

    @property
    def path(self) -> Path:
        return Path(f"/proc/{self.pid}/ns/net")

    def close(self) -> None:
        """Remove the namespace with its interfaces, addresses, routes and rules, unless another process uses it."""
        self._holder.kill()
        self._holder.wait()

    def command(self, *argv: str) -> list[str]:
        """The command that runs a program in the namespace."""
        return ["nsenter", f"--net={self.path}", *argv]

    def run(self, *argv: str, text: str = "") -> None:
        """Run one of the machine's own tools in the namespace.

        Raises:
            CommandFailed: if it failed.
        """
        environment = {**os.environ, "PATH": search_path()}
        argv_inside = self.command(*argv)
        completed = subprocess.run(
            argv_inside, input=text, env=environment, capture_output=True, text=True, check=False
        )
        if completed.returncode != 0:
            raise CommandFailed(argv_inside, completed.returncode, f"{completed.stderr}{text}")

    def ip(self, *commands: str) -> None:
        """Run commands of `ip`, such as ``link set lo up``, in the namespace."""
        self.run("ip", "-batch", "-", text="\n".join(commands))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move this thread into the namespace. Its new sockets and child processes stay there after the block."""
        with _OWN.open("rb") as own, self.path.open("rb") as other:
            _enter(other.fileno())
            try:
                yield
            finally:
                _enter(own.fileno())


def _enter(descriptor: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")
