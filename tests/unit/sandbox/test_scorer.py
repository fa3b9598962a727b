"""A user's own scorer: its numbers, its faults, and what it cannot reach."""

import sys
import time
from pathlib import Path

import pytest
from promptintern.errors import UserError
from promptintern.sandbox import scorer_process
from promptintern.sandbox.process import Isolation, find_isolation
from promptintern.sandbox.scorer import check_scorer, score_rows
from promptintern.sandbox.scorer_process import ScoredRow, ScorerFault, ScorerProcess, python_path
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

def links(query, answers, prediction):
    for name in os.listdir("."):
        os.unlink(name)
    for name in ("errors", "stderr"):
        os.symlink(query, name)
    os._exit(1)

def floods(query, answers, prediction):
    for n in range(8):
        open(f"file{n}", "wb").write(bytes(20 * 2**20))
    time.sleep(60)

def runs_it(query, answers, prediction):
    exec(prediction, {"os": os})
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
    assert score_rows(rows, scorer("overlap"), HELD).numbers == [50.0, 100.0, 0.0, 100.0]


def test_no_rows_need_no_scorer() -> None:
    assert score_rows([], scorer("absent"), HELD).numbers == []


def test_a_fault_on_a_row_leaves_the_others(module: Path) -> None:
    predictions = ["fine", "error", "none", "nan", "large", "exit", "slow", "memory", "recursion", "fine"]
    rows = [row(prediction) for prediction in predictions]
    settings = scorer("picky", timeoutSeconds=2)
    scored = score_rows(rows, settings, HELD)
    assert scored.numbers == [50.0, *[None] * 8, 50.0]
    assert scored.faults.total() == 8
    assert scored.faults["ValueError: no such thing"] == 1


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
    assert score_rows([row("x")], scorer("environment"), HELD).numbers == [0.0]


def test_a_command_gives_numbers_and_faults(tmp_path: Path) -> None:
    program = tmp_path / "score.py"
    program.write_text(COMMAND)
    settings = Scorer(command=[sys.executable, str(program)])
    rows = [row("one two"), row("crash"), row("other"), row("one two")]
    assert score_rows(rows, settings, HELD).numbers == [100.0, None, 0.0, 100.0]
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
    partial = Isolation(filters_calls=True, landlock=0)
    assert score_rows([row("one")], scorer("overlap"), partial).numbers == [50.0]


@pytest.mark.parametrize("target", ["secret", "/dev/zero", "missing"])
def test_links_that_a_scorer_leaves_are_not_followed(module: Path, tmp_path: Path, target: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("TOKEN-abc")
    query = str(secret) if target == "secret" else target
    with ScorerProcess(scorer("links"), HELD) as process, pytest.raises(ScorerFault) as fault:
        process.score(ScoredRow(query=query, answers=["a"], prediction="b"))
    assert str(fault.value) == "it ended with the exit code 1"


def test_a_row_that_nobody_reads_has_the_same_deadline() -> None:
    settings, began = Scorer(command=["sleep", "30"], timeout_seconds=1), time.monotonic()
    large = ScoredRow(query="x" * 2**20, answers=["a"], prediction="b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer_process, "_LOAD_SECONDS", 1.0)
        with ScorerProcess(settings, HELD) as process, pytest.raises(ScorerFault, match="longer than 2 s"):
            process.score(large)
    assert time.monotonic() - began < 20


def test_large_rows_arrive_whole(module: Path) -> None:
    long = "w" * (3 * 2**20)
    assert score_rows([row(long, long), row("one")], scorer("overlap"), HELD).numbers == [100.0, 50.0]


def command_of(folder: Path, body: str) -> Scorer:
    """Return a scorer whose program runs ``body`` for each row."""
    program = folder / "score.py"
    program.write_text(f"import json, sys, time\nfor line in sys.stdin:\n    row = json.loads(line)\n    {body}\n")
    return Scorer(command=[sys.executable, str(program)])


def test_a_line_too_many_is_a_fault_and_never_the_number_of_another_row(tmp_path: Path) -> None:
    settings = command_of(tmp_path, "print(f\"{row['prediction']}\\n0.0\", flush=True)")
    with ScorerProcess(settings, HELD) as process:
        for prediction in ("100", "7", "8"):
            with pytest.raises(ScorerFault, match=r"more than one line|before it got the next row"):
                process.score(row(prediction))


def test_a_program_that_talks_before_its_first_row_is_a_fault(tmp_path: Path) -> None:
    settings = command_of(tmp_path, "print(1.0, flush=True)")
    program = tmp_path / "score.py"
    program.write_text(f"print('loading', flush=True)\n{program.read_text()}")
    with ScorerProcess(settings, HELD) as process, pytest.raises(ScorerFault):
        process.score(row("a"))


def test_a_prediction_that_a_scorer_runs_cannot_write_the_number(module: Path) -> None:
    forged = "for n in range(3, 30):\n    try: os.write(n, b'100\\n')\n    except OSError: pass"
    with ScorerProcess(scorer("runs_it"), HELD) as process:
        with pytest.raises(ScorerFault):
            process.score(row(forged))
        assert process.score(row("pass")) == 1


def test_files_are_limited_in_total(module: Path) -> None:
    settings = scorer("floods", timeoutSeconds=30)
    with ScorerProcess(settings, HELD) as process, pytest.raises(ScorerFault, match="files of more than 32 MiB"):
        process.score(row("x"))


def test_a_program_may_take_its_time_to_load(tmp_path: Path) -> None:
    settings = command_of(tmp_path, "print(1.0, flush=True)").model_copy(update={"timeout_seconds": 0.5})
    program = tmp_path / "score.py"
    program.write_text(f"import time\ntime.sleep(2)\n{program.read_text()}")
    with ScorerProcess(settings, HELD) as process:
        assert process.score(row("a")) == process.score(row("b")) == 1


def test_a_scorer_that_does_not_load_is_given_up(module: Path) -> None:
    scored = score_rows([row("x")] * 40, scorer("absent"), HELD)
    assert scored.numbers == [None] * 40
    assert scored.faults["it could not be loaded any more"] >= 30


def test_the_working_directory_and_the_home_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), str(tmp_path / "home"), "/", "/usr/lib/x"])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert python_path() == ["/usr/lib/x"]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert python_path() == [str(tmp_path), "/usr/lib/x"]


def test_without_written_answers_a_scorer_is_only_loaded(module: Path) -> None:
    check_scorer(None, scorer("picky"), HELD)
    with pytest.raises(UserError, match="cannot be loaded: ModuleNotFoundError"):
        check_scorer(None, Scorer(entry_point="no_such_module:score"), HELD)


def test_what_cannot_be_read_on_pythons_path_is_left_out(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, "/etc/hostname/inside", "/nowhere"])
    assert score_rows([row("one")], scorer("overlap"), HELD).numbers == [50.0]
