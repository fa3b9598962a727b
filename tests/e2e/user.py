"""The commands of `promptintern` as a team member runs them in a shell."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cluster import guard
from tests.e2e.tenant import Team

_PROMPTINTERN = (sys.executable, "-m", "promptintern.cli.app")


class Shell:
    """A shell of a member of ``team`` with the home folder ``home``."""

    def __init__(self, team: Team, home: Path) -> None:
        self._team = team
        self._home = home
        self._environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}

    def predict(self, adapter: Path, queries: list[str]) -> list[str]:
        """Run `promptintern predict`, which needs no cluster, and return the answers."""
        text = "".join(f"{query}\n" for query in queries)
        return self._run("predict", str(adapter), input=text, env=self._environment).splitlines()

    def fetch(self, name: str, folder: Path) -> None:
        """Run `promptintern fetch`."""
        self._run("fetch", name, str(folder), *self._namespace_option)

    def submit(self, document: dict[str, Any]) -> str:
        """Run `promptintern submit`, and return the job's name."""
        name = str(document["metadata"]["name"])
        file = self._home / f"{name}.yaml"
        file.write_text(json.dumps(document))  # JSON is YAML, too
        self._run("submit", str(file), *self._namespace_option)
        return name

    def status(self, name: str) -> str:
        """Run `promptintern status`, and return its output."""
        return self._run("status", name, *self._namespace_option)

    def follow_logs(self, name: str) -> "BackgroundCommand":
        """Run `promptintern logs -f` in the background."""
        return BackgroundCommand(
            (*_PROMPTINTERN, "logs", name, "-f", *self._namespace_option),
            self._cluster_environment,
            self._home / f"{name}.log",
        )

    @property
    def _namespace_option(self) -> tuple[str, ...]:
        return ("--namespace", self._team.namespace)

    @property
    def _cluster_environment(self) -> dict[str, str]:
        return self._environment | self._team.environment()

    def _run(self, *arguments: str, **options: Any) -> str:
        options = {"env": self._cluster_environment} | options
        command = [*_PROMPTINTERN, *arguments]
        completed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options)
        return str(completed.stdout)


class BackgroundCommand:
    """A program that runs in the background with its output in a file."""

    def __init__(self, command: tuple[str, ...], environment: dict[str, str], file: Path) -> None:
        self._file = file
        with file.open("wb") as out:
            self._process = guard.start(command, env=environment, stdout=out, stderr=subprocess.STDOUT)

    def result(self, seconds: float) -> tuple[int, str]:
        """Wait for the end of the program, and return its exit code and output."""
        try:
            return self._process.wait(seconds), self._file.read_text()
        finally:
            self.kill()

    def kill(self) -> None:
        """End the program if it still runs."""
        self._process.kill()
        self._process.wait()
