"""The contract is spelled once in Python, and the chart, the images and the documentation say the same."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest
from promptintern_api import contract

ROOT = Path(__file__).parents[3]
PACKAGES = ("crds", "operator", "trainer/promptintern")
STRINGS = {
    name: value
    for name, value in vars(contract).items()
    if name.isupper() and isinstance(value, str) and name not in ("RUN_FORMAT", "OPERATOR_ENV_PREFIX")
}
COMMON = {"adapter", "report", "logs"}
"""Words of the contract that mean something else in most places."""


def literals() -> dict[str, list[str]]:
    """Every string in the packages' code, without docstrings, with the places where it stands."""
    found = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                    found[node.value].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return dict(found)


LITERALS = literals()


@pytest.mark.parametrize("value", sorted(set(STRINGS.values()) - COMMON - {contract.OPERATOR_SELECTOR}))
def test_each_word_is_spelled_once(value: str) -> None:
    parts = re.compile(rf"(?<![\w.-]){re.escape(value)}(?![\w-]|\.j2)")
    places = [place for text, found in LITERALS.items() if parts.search(text) for place in found]
    assert [place.partition(":")[0] for place in places] == ["crds/promptintern_api/contract.py"], places


def test_exit_codes_are_spelled_once() -> None:
    """No module but the contract ends a process with a number."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(sys\.exit|typer\.Exit|SystemExit)\(\d+\)", text), path


@pytest.mark.parametrize("path", ["README.md", "docs/cli.md"])
def test_documented_exit_codes(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8").casefold()
    codes = {int(code) for code in re.findall(r"\b(\d{1,3})\b", text[text.index("exit code") :][:400])}
    public = {int(code) for code in contract.ExitCode} - {contract.ExitCode.INFRASTRUCTURE}
    assert codes >= public & ({0, 1, 2, 130, 143} if path == "README.md" else {0, 1, 2})


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
