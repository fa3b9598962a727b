"""What a member of a team does with `promptintern` in a shell."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cluster import guard
from tests.e2e.tenant import Team

_PROMPTINTERN = (sys.executable, "-m", "promptintern.cli.app")


class Shell:
    """A shell of ``team``, at home in ``home``."""

    def __init__(self, team: Team, home: Path) -> None:
        self._team = team
        self._home = home
        self._environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}

    def predict(self, adapter: Path, queries: list[str]) -> list[str]:
        """`promptintern predict`, which needs no cluster."""
        text = "".join(f"{query}\n" for query in queries)
        return self._run("predict", str(adapter), input=text, env=self._environment).splitlines()

    def fetch(self, name: str, folder: Path) -> None:
        """`promptintern fetch`."""
        self._run("fetch", name, str(folder), *self._where)

    def submit(self, document: dict[str, Any]) -> str:
        """`promptintern submit`; the job's name."""
        name = str(document["metadata"]["name"])
        file = self._home / f"{name}.yaml"
        file.write_text(json.dumps(document))  # which is YAML, too
        self._run("submit", str(file), *self._where)
        return name

    def status(self, name: str) -> str:
        """`promptintern status`."""
        return self._run("status", name, *self._where)

    def follow_logs(self, name: str) -> "Following":
        """`promptintern logs -f`, which goes on while others work."""
        return Following((*_PROMPTINTERN, "logs", name, "-f", *self._where), self._all, self._home / f"{name}.log")

    @property
    def _where(self) -> tuple[str, ...]:
        return ("--namespace", self._team.namespace)

    @property
    def _all(self) -> dict[str, str]:
        return self._environment | self._team.environment()

    def _run(self, *arguments: str, **more: Any) -> str:
        more = {"env": self._all} | more
        done = subprocess.run([*_PROMPTINTERN, *arguments], check=True, stdout=subprocess.PIPE, text=True, **more)
        return str(done.stdout)


class Following:
    """A program that runs, and whose output goes into a file."""

    def __init__(self, command: tuple[str, ...], environment: dict[str, str], file: Path) -> None:
        self._file = file
        with file.open("wb") as out:
            self._process = guard.start(command, env=environment, stdout=out, stderr=subprocess.STDOUT)

    def result(self, seconds: float) -> tuple[int, str]:
        """Exit status and output, once it has ended by itself."""
        try:
            return self._process.wait(seconds), self._file.read_text()
        finally:
            self.kill()

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()
