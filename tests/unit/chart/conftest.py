"""Helm as a function from values to objects."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import programs
from tests.cluster.errors import NoCluster

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "promptintern"
RELEASE, NAMESPACE = "promptintern", "promptintern-system"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
EVERYTHING = yaml.safe_load(Path(__file__).with_name("everything.yaml").read_text())

Manifest = dict[str, Any]
Values = dict[str, Any]
NAMED: dict[str, Values] = {
    "default": {},
    "namespaced": {
        "namespaces": ["team-a", "team-b"],
        "kuberayNamespace": "",
        "defaultStorage": {"uri": "s3://platform/runs", "secretName": "platform-s3"},
    },
    "everything": EVERYTHING,
}
"""The sets of values whose rendered objects are kept in snapshots/."""


class HelmFailed(Exception):  # noqa: N818 -- the name says what happened
    """Raised if Helm fails, with its error output."""


class Helm:
    """Runs Helm on the chart."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._texts: dict[str, str] = {}

    def run(self, *arguments: str, values: Values | None = None) -> str:
        """Run Helm and return its output. Raise ``HelmFailed`` if it fails."""
        with tempfile.TemporaryDirectory() as home:
            file = Path(home) / "values.json"  # JSON is YAML
            file.write_text(json.dumps(values or {}))
            done = subprocess.run(
                [self._program, *arguments, "--values", str(file)],
                env={"HOME": home, "PATH": ""},
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode != 0:
            raise HelmFailed(done.stderr)
        return done.stdout

    def text(self, *arguments: str, values: Values | None = None) -> str:
        """Return the rendered chart, which is cached."""
        key = json.dumps([arguments, values])
        if key not in self._texts:
            command = ("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *arguments)
            self._texts[key] = self.run(*command, values=values)
        return self._texts[key]

    def objects(self, *arguments: str, values: Values | None = None) -> list[Manifest]:
        """Return the rendered objects."""
        return [item for item in yaml.safe_load_all(self.text(*arguments, values=values)) if item]


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Helm, which is built with Go if it is missing."""
    try:
        return Helm(programs.program("helm"))
    except NoCluster as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session", params=NAMED)
def rendered(helm: Helm, request: pytest.FixtureRequest) -> list[Manifest]:
    """The rendered objects, for each named set of values."""
    return helm.objects(values=NAMED[request.param])


def of_kind(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    """Return the objects of these kinds."""
    return [item for item in objects if item["kind"] in kinds]


def leaves(schema: Values, values: Values) -> dict[tuple[str, ...], Any]:
    """Return the values by their paths. An object whose properties the schema does not list is one value."""
    result: dict[tuple[str, ...], Any] = {}
    for name, value in values.items():
        inner = schema["properties"][name]
        if "properties" in inner:
            result |= {(name, *path): leaf for path, leaf in leaves(inner, value).items()}
        else:
            result[(name,)] = value
    return result


def changed(values: Values, path: tuple[str, ...], value: Any) -> Values:
    """Return ``values`` with another value at ``path``."""
    name, *rest = path
    return values | {name: changed(values.get(name) or {}, tuple(rest), value) if rest else value}
