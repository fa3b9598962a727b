"""Programs in the sandbox: the right ones pass, and the hostile ones are contained, each with its verdict."""

import time
from pathlib import Path

import pytest
from promptintern.sandbox import process
from promptintern.sandbox.process import Isolation, Limits, NotIsolated, find_isolation, run_program
from promptintern.sandbox.verdict import Verdict

from tests.unit.sandbox.zoo import HARMLESS, RIGHT, SQUARE, ZOO, Animal

needs_isolation = pytest.mark.skipif(
    not find_isolation().is_complete, reason="this kernel has no Landlock, or this machine has no seccomp filter"
)


@needs_isolation
@pytest.mark.parametrize("animal", [*ZOO, *HARMLESS], ids=lambda animal: str(animal.name))
def test_hostile_programs_are_contained(animal: Animal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path))
    before = set(Path("/proc/self/fd").iterdir())
    began = time.monotonic()
    outcome = run_program(animal.program, animal.tests, limits=Limits(seconds=animal.seconds))
    assert outcome.verdict in animal.allowed, outcome
    assert time.monotonic() - began < animal.seconds + 30
    assert len(outcome.message) <= 500
    assert list(tmp_path.iterdir()) == [], "its folder is gone"
    assert set(Path("/proc/self/fd").iterdir()) == before, "nothing stays open"


def test_the_zoo_is_large() -> None:
    assert len(ZOO) >= 30
    assert len({animal.name for animal in (*ZOO, *HARMLESS)}) == len(ZOO) + len(HARMLESS)


@needs_isolation
@pytest.mark.parametrize(
    ("program", "tests", "verdict", "message"),
    [
        (SQUARE, [RIGHT, "assert f(3) == 9"], Verdict.PASSED, ""),
        (SQUARE, [RIGHT, "assert f(3) == 8"], Verdict.FAILED, "AssertionError"),
        (SQUARE, ["assert f(3) == 8, 'told'"], Verdict.FAILED, "AssertionError: told"),
        (SQUARE, ["assert g(3)"], Verdict.ERROR, "NameError: name 'g' is not defined"),
        (SQUARE, ["assert f("], Verdict.ERROR, "SyntaxError"),
        ("x = 1", [], Verdict.PASSED, ""),
    ],
)
def test_verdicts(program: str, tests: list[str], verdict: Verdict, message: str) -> None:
    outcome = run_program(program, tests)
    assert outcome.verdict is verdict
    assert outcome.message.startswith(message)


@needs_isolation
def test_objects_of_a_programs_own_class_may_be_equal() -> None:
    program = "class P:\n  def __init__(self, a): self.a = a\n  def __eq__(self, other): return self.a == other.a\n"
    program += "def f(x): return P(x)"
    assert run_program(program, ["assert f(2) == P(2)"]).verdict is Verdict.PASSED
    assert run_program(program, ["assert f(2) == P(3)"]).verdict is Verdict.FAILED


@needs_isolation
def test_setup_runs_after_the_program_and_before_its_tests() -> None:
    program = "class Node:\n  def __init__(self, value): self.value = value\ndef f(node): return node.value"
    assert run_program(program, ["assert f(root) == 1"], setup="root = Node(1)").verdict is Verdict.PASSED


@needs_isolation
def test_nothing_of_the_environment_reaches_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("PYTHONSTARTUP", "/tmp/evil.py")
    program = "import os\nnames = set(os.environ) - {'LC_CTYPE'}"
    assert run_program(program, ["assert names == set()"]).verdict is Verdict.PASSED


def test_where_no_filter_holds_a_program_it_is_not_run() -> None:
    with pytest.raises(NotIsolated, match="only on Linux"):
        run_program(SQUARE, [RIGHT], isolation=Isolation(filters_calls=False, landlock=0))


@needs_isolation
def test_without_landlock_the_rest_still_holds() -> None:
    """docs/sandbox.md says what is missing: other files can be read."""
    bare = Isolation(filters_calls=True, landlock=0)
    assert not bare.is_complete
    assert run_program(SQUARE, [RIGHT], isolation=bare).verdict is Verdict.PASSED
    assert run_program("open('/etc/passwd')" + SQUARE, [RIGHT], isolation=bare).verdict is Verdict.PASSED
    for name in ("fork bomb", "kill the parent", "connection", "shell"):
        animal = next(each for each in ZOO if each.name == name)
        assert run_program(animal.program, animal.tests, isolation=bare).verdict is Verdict.ERROR
