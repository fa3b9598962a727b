"""A user's own scorer: its numbers, its faults, and what it cannot reach."""

import sys
from pathlib import Path

import pytest
from promptintern.errors import UserError
from promptintern.sandbox.process import Isolation, find_isolation
from promptintern.sandbox.scorer import ScoredRow, ScorerFault, ScorerProcess, check_scorer, score_rows
from promptintern_api.metrics import Scorer

HELD = find_isolation()
pytestmark = pytest.mark.skipif(not HELD.filters_calls, reason="no seccomp filter for this machine")
ONLY_LANDLOCK = pytest.mark.skipif(not HELD.is_complete, reason="this kernel has no Landlock")

MODULE = """
import json, os, re, socket, subprocess, sys, time

def overlap(query, answers, prediction):
    print("this is no number")
    words = [set(answer.split()) for answer in answers]
    return max(100 * len(each & set(prediction.split())) / len(each) for each in words)

def picky(query, answers, prediction):
    match prediction:
        case "error": raise ValueError("no\\nsuch thing")
        case "none": return None
        case "nan": return float("nan")
        case "large": return 101
        case "exit": os._exit(3)
        case "slow": time.sleep(60)
        case "memory": bytearray(2**40)
        case "recursion": return picky(query, answers, prediction)
    return 50

def reads(query, answers, prediction):
    open(prediction).read()
    return 1

def connects(query, answers, prediction):
    socket.socket().connect(("127.0.0.1", 9))
    return 1

def forks(query, answers, prediction):
    subprocess.run(["true"])
    return 1

def environment(query, answers, prediction):
    return len(set(os.environ) - {"LC_CTYPE"})  # Python itself sets this one
"""
COMMAND = """
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    if row["prediction"] == "crash":
        raise RuntimeError("gone wrong")
    print(100.0 if row["prediction"] in row["answers"] else 0.0, flush=True)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path with a module of scorers."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "my_scores.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def row(prediction: str, *answers: str) -> ScoredRow:
    return ScoredRow(query="a query", answers=answers or ("one two",), prediction=prediction)


def scorer(function: str, **settings: object) -> Scorer:
    return Scorer.model_validate({"entryPoint": f"my_scores:{function}", **settings})


def test_a_function_gives_numbers(module: Path) -> None:
    rows = [row("one"), row("one two"), row("none"), row("three", "three", "four five")]
    assert score_rows(rows, scorer("overlap"), HELD) == [50.0, 100.0, 0.0, 100.0]


def test_no_rows_need_no_scorer() -> None:
    assert score_rows([], scorer("absent"), HELD) == []


def test_a_fault_on_a_row_leaves_the_others(module: Path) -> None:
    predictions = ["fine", "error", "none", "nan", "large", "exit", "slow", "memory", "recursion", "fine"]
    rows = [row(prediction) for prediction in predictions]
    settings = scorer("picky", timeoutSeconds=2)
    assert score_rows(rows, settings, HELD) == [50.0, *[None] * 8, 50.0]


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        ("error", "ValueError: no such thing"),
        ("none", "TypeError"),
        ("nan", "the number is nan"),
        ("large", "the number is 101.0, which is not from 0 to 100"),
        ("exit", "exit code 3"),
        ("slow", "longer than 1 s"),
        ("memory", "MemoryError"),
    ],
)
def test_a_fault_says_what_went_wrong(module: Path, prediction: str, message: str) -> None:
    with ScorerProcess(scorer("picky", timeoutSeconds=1), HELD) as process, pytest.raises(ScorerFault, match=message):
        process.score(row(prediction))


@pytest.mark.parametrize("prediction", ["/etc/passwd", "/proc/self/environ", "/proc/1/cmdline", str(Path.home())])
@ONLY_LANDLOCK
def test_other_files_are_out_of_reach(module: Path, prediction: str) -> None:
    with ScorerProcess(scorer("reads"), HELD) as process, pytest.raises(ScorerFault, match=r"PermissionError|Error:"):
        process.score(row(prediction))


@pytest.mark.parametrize("function", ["connects", "forks"])
def test_the_network_and_other_processes_are_out_of_reach(module: Path, function: str) -> None:
    with ScorerProcess(scorer(function), HELD) as process, pytest.raises(ScorerFault, match=r"PermissionError|OSError"):
        process.score(row("x"))


def test_the_environment_is_empty(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert score_rows([row("x")], scorer("environment"), HELD) == [0.0]


def test_a_command_gives_numbers_and_faults(tmp_path: Path) -> None:
    program = tmp_path / "score.py"
    program.write_text(COMMAND)
    settings = Scorer(command=[sys.executable, str(program)])
    rows = [row("one two"), row("crash"), row("other"), row("one two")]
    assert score_rows(rows, settings, HELD) == [100.0, None, 0.0, 100.0]
    with ScorerProcess(settings, HELD) as process, pytest.raises(ScorerFault, match="RuntimeError: gone wrong"):
        process.score(row("crash"))


@ONLY_LANDLOCK
def test_a_command_reaches_nothing_else(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    program = tmp_path / "score.py"
    program.write_text(f"import sys\nfor line in sys.stdin:\n    open({str(secret)!r})\n    print(1, flush=True)\n")
    settings = Scorer(command=[sys.executable, str(program)])
    with ScorerProcess(settings, HELD) as process, pytest.raises(ScorerFault, match="PermissionError"):
        process.score(row("x"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entryPoint": "no_such_module:score"}, "ModuleNotFoundError"),
        ({"entryPoint": "my_scores:absent"}, "AttributeError"),
        ({"command": ["no-such-program"]}, "there is no program no-such-program"),
        ({"command": ["true"]}, "exit code 0"),
        ({"command": ["echo", "hello"]}, "'hello'"),
    ],
)
def test_a_scorer_that_does_not_work_is_named_at_its_field(
    module: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        check_scorer(row("one two"), Scorer.model_validate(settings), HELD)
    assert refused.value.problems[0].where == "spec.evaluation.scorer"


def test_a_scorer_that_works_is_accepted(module: Path) -> None:
    check_scorer(row("one two"), scorer("overlap"), HELD)


def test_nothing_is_left_behind(module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    score_rows([row("slow"), row("fine"), row("exit")], scorer("picky", timeoutSeconds=1), HELD)
    assert list(place.iterdir()) == []


def test_partial_isolation_still_runs(module: Path) -> None:
    assert score_rows([row("one")], scorer("overlap"), Isolation(filters_calls=True, landlock=0)) == [50.0]
