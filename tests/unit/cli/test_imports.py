"""Commands import only what they need, and the process of a command ends as it should."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import imported_modules, packages
from tests.one_job_server import one_job_server

HEAVY = {"bm25s", "jinja2", "matplotlib", "numpy", "pandas", "peft", "pyarrow", "ray", "s3fs", "structlog", "torch"}
HEAVY |= {"sacrebleu", "transformers"}

ENDING = """
import atexit, sys
from promptintern.cli import app

def main():
    atexit.register(print, "a library cleaned up")
    print("an answer")
    {last}

app.main = main
app.program()
"""


@pytest.mark.parametrize("arguments", [("--help",), ("predict", "--help"), ("status", "--help")], ids=" ".join)
def test_the_help_needs_no_models(arguments: tuple[str, ...]) -> None:
    _, modules = imported_modules(*arguments)
    assert packages(modules) & (HEAVY | {"kubernetes", "urllib3", "yaml"}) == set()
    assert not modules & {"promptintern_api.job", "promptintern_api.status"}


@pytest.mark.parametrize("arguments", [("status", "small"), ("status", "small", "-n", "default")], ids=" ".join)
def test_status_needs_one_api_of_the_kubernetes_client(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with one_job_server(tmp_path / "kubeconfig"):
        output, modules = imported_modules(*arguments, KUBECONFIG=str(tmp_path / "kubeconfig"))
    assert "stage 1: step 30/120" in output
    assert "kubernetes.client.api.custom_objects_api" in modules
    assert packages(modules) & HEAVY == set()
    assert not {module for module in modules if module.startswith("kubernetes.client.models.v1_pod")}
    assert not modules & {"promptintern_api.job", "promptintern.pipeline", "promptintern.storage"}


@pytest.mark.parametrize(
    ("last", "code"),
    [("sys.exit(0)", 0), ("sys.exit(2)", 2), ("sys.exit()", 0), ("sys.exit('text')", 1), ("raise ValueError", 1)],
)
def test_the_program_ends_with_the_code_of_the_command_and_after_the_functions_of_libraries(
    last: str, code: int
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ENDING.format(last=last)], check=False, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == code
    assert ran.stdout.splitlines() == ["an answer", "a library cleaned up"]
    assert ("ValueError" in ran.stderr) == ("ValueError" in last)
