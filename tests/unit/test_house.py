"""The house style that can be counted: sizes of files and folders, and how docstrings begin and end."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("crds/promptintern_api", "operator/promptintern_operator", "trainer/promptintern")
MAX_LINES, MAX_MODULES = 400, 14
FRAGMENT = re.compile(r"(Of|That|As|Whose|Nor|So many|So much|By which|To whom|With which)\b(?!.*\?)")
"""First words of a docstring that lacks its subject."""
DANGLING = re.compile(r"(, without|\bof which|\bin hand|\banew)\.$")
"""Last words of a sentence that lacks its noun."""


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Every string that stands as a statement: docstrings, and those below a field or a constant."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, " ".join(node.value.value.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_too_long(package: str) -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules(package)}
    assert not {str(path): lines for path, lines in lengths.items() if lines > MAX_LINES}


def test_no_folder_of_the_trainer_has_too_many_modules() -> None:
    counts = Counter(path.parent for path in modules("trainer/promptintern") if path.name != "__init__.py")
    assert not {str(folder): count for folder, count in counts.items() if count > MAX_MODULES}


@pytest.mark.parametrize("package", [*PACKAGES, "benchmarks", "tests"])
def test_docstrings_are_whole(package: str) -> None:
    fragments = [
        f"{path.relative_to(ROOT)}:{line}: {text[:80]}"
        for path in modules(package)
        for line, text in docstrings(path)
        if FRAGMENT.match(text) or DANGLING.search(text)
    ]
    assert not fragments, "\n".join(fragments)


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
USERS_FILES = {"job.yaml", "jobs.yaml", "report/report.md", "report.md"}
"""The names in pages that stand for a file of the reader, or of a run."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"`([\w./-]+\.(?:py|md|yaml|j2|tpl|toml))`", page.read_text(encoding="utf-8")))
    files = [str(path.relative_to(ROOT)) for path in tracked_files()]
    missing = {name for name in named - USERS_FILES if not any(f"/{file}".endswith(f"/{name}") for file in files)}
    assert not missing


def tracked_files() -> list[Path]:
    """The repository's files: this test also runs where there is no git."""
    skipped = {".git", ".venv", "node_modules", "runs", "promptintern-runs", ".mypy_cache", ".ruff_cache"}
    folders = [ROOT / name for name in sorted(path.name for path in ROOT.iterdir()) if name not in skipped]
    return [path for top in folders for path in ([top] if top.is_file() else top.rglob("*")) if path.is_file()]
