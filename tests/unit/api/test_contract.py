"""The contract is spelled once in Python, and the chart and the documentation say the same."""

import ast
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.core
from hypothesis import given, settings
from promptintern.cli.app import app
from promptintern_api import PromptInternJob, contract
from promptintern_operator.manifests.config import resolve
from promptintern_operator.manifests.preflight import preflight_job
from promptintern_operator.manifests.rayjob import ray_job
from promptintern_operator.settings import DefaultStorage, Settings

from tests.unit.operator.jobs import jobs

ROOT = Path(__file__).parents[3]
SETTINGS = Settings(default_storage=DefaultStorage(uri="s3://all/runs", secret_name="all-s3"))
PACKAGES = ("crds", "operator", "trainer/promptintern")
STRINGS = {
    name: value
    for name, value in vars(contract).items()
    if name.isupper() and isinstance(value, str) and name not in ("RUN_FORMAT", "OPERATOR_ENV_PREFIX")
}
COMMON = {"adapter", "report", "logs", "check"}
"""Words of the contract that mean something else in most places."""


MODULES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
"""The syntax trees of the packages' modules."""


def literals() -> dict[str, list[str]]:
    """Every string in the packages' code, without docstrings, with the places where it stands."""
    found = defaultdict(list)
    for path, tree in MODULES.items():
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                found[node.value].append(f"{path}:{node.lineno}")
    return dict(found)


LITERALS = literals()


@pytest.mark.parametrize("value", sorted(set(STRINGS.values()) - COMMON - {contract.OPERATOR_SELECTOR}))
def test_each_word_is_spelled_once(value: str) -> None:
    parts = re.compile(rf"(?<![\w.-]){re.escape(value)}(?![\w-]|\.j2)")
    places = [place for text, found in LITERALS.items() if parts.search(text) for place in found]
    assert [place.partition(":")[0] for place in places] == ["crds/promptintern_api/contract.py"], places


def test_exit_codes_are_spelled_once() -> None:
    """No module but the contract has an exit code as a number, and none ends a process with a number."""
    codes = {int(code) for code in contract.ExitCode if code > contract.ExitCode.USER_ERROR}
    for path, tree in MODULES.items():
        assert not re.search(r"(sys\.exit|typer\.Exit|SystemExit)\(\d+\)", (ROOT / path).read_text("utf-8")), path
        if path.name not in ("contract.py", "seccomp.py"):  # the latter has the numbers of system calls
            numbers = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            assert not codes & {number for number in numbers if isinstance(number, int)}, path


def test_names_of_dependents_are_spelled_once() -> None:
    """No code but ``dependent_name`` puts the prefix before a name; prefixes of temporary folders may be the same."""
    prefixes = []
    for path, tree in MODULES.items():
        starts = (node.values[0] for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) and node.values)
        prefixes += [path.name for start in starts if ast.unparse(start).strip("'") == "promptintern-"]
    assert prefixes == ["contract.py"]


@settings(max_examples=10, derandomize=True)
@given(jobs())
def test_pods_run_commands_that_exist(job: PromptInternJob) -> None:
    """The command line of each container is one that the trainer's command line accepts."""
    cli = typer.main.get_command(app)
    resolved = resolve(job, SETTINGS)
    manifests = [ray_job(resolved, SETTINGS, number=1), preflight_job(resolved, SETTINGS, generation=1, number=1)]
    commands = list(trainer_commands(manifests))
    assert {command[1] for command in commands} == {"pod", "validate"}
    for command in commands:
        found, rest, context = cli, command[1:], None
        while isinstance(found, typer.core.TyperGroup):
            context = found.make_context(None, rest[:1], parent=context)
            found, rest = found.commands[rest[0]], rest[1:]
        found.make_context(None, list(rest), parent=context)


def trainer_commands(value: object) -> Iterator[list[str]]:
    """Yield every command line of the trainer in a manifest: a list, or the entry point of a RayJob."""
    if isinstance(value, dict):
        for entry in value.values():
            yield from trainer_commands(entry)
    elif isinstance(value, list) and value and value[0] == "promptintern":
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from trainer_commands(entry)
    elif isinstance(value, str) and value.startswith("promptintern "):
        yield shlex.split(value)


@pytest.mark.parametrize("path", ["README.md", "docs/cli.md"])
def test_documented_exit_codes(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8").casefold()
    codes = {int(code) for code in re.findall(r"\b(\d{1,3})\b", text[text.index("exit code") :][:800])}
    assert codes >= {int(code) for code in contract.ExitCode} - {contract.ExitCode.INFRASTRUCTURE}


def test_documented_files() -> None:
    """The page about the storage names every file and folder of a run that the contract names."""
    text = (ROOT / "docs/storage.md").read_text(encoding="utf-8")
    names = {value for name, value in STRINGS.items() if name.endswith(("_FILE", "_FOLDER")) and "/" not in value}
    missing = {name for name in names - {contract.ENV_POD_FOLDER} if name not in text}
    assert len(names) > 5
    assert not missing


def test_documented_environment_variables() -> None:
    documented = set()
    for path in (*ROOT.glob("docs/*.md"), ROOT / "README.md"):
        documented |= set(re.findall(r"PROMPTINTERN_STORAGE\w+", path.read_text(encoding="utf-8")))
    assert documented <= set(STRINGS.values())


def test_labels_and_names_in_chart_and_documentation() -> None:
    labels = {value for value in STRINGS.values() if value.startswith("promptintern.dev/")}
    for path in (*ROOT.glob("docs/*.md"), *ROOT.glob("charts/**/*.yaml"), *ROOT.glob("charts/**/*.tpl")):
        if path.name == "crd.yaml":
            continue
        used = set(re.findall(r"promptintern\.dev/(?!v1)[a-z-]+", path.read_text(encoding="utf-8")))
        assert used <= labels, path
