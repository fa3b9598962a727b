"""The programs in answers, and what a job says about them."""

import pytest
from promptintern.errors import UserError
from promptintern.sandbox import programs
from promptintern.sandbox.process import Isolation, find_isolation
from promptintern.sandbox.programs import AnswerWithTests, check_isolation, limits_of, program_of, run_answers
from promptintern.sandbox.verdict import Verdict
from promptintern_api.metrics import ProgramIsolation, Programs
from promptintern_api.quantity import parse_quantity


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("def f(): pass", "def f(): pass"),
        ("Here it is:\n```python\ndef f(): pass\n```\nDone.", "def f(): pass\n"),
        ("```\nx = 1\n```\n```\ny = 2\n```", "x = 1\n"),
        ("```python\nx = 1\ny =", "x = 1\ny ="),
        ("x = '```'", "x = '```'"),
        ("  ```py\n  x = 1\n  ```", "  x = 1\n"),
        ("", ""),
    ],
)
def test_the_program_of_an_answer(answer: str, program: str) -> None:
    assert program_of(answer) == program


@pytest.mark.skipif(not find_isolation().is_complete, reason="this kernel has no Landlock")
def test_verdicts_keep_the_order_of_the_answers() -> None:
    answers = [
        AnswerWithTests(answer=f"def f(): return {n}", tests=["assert f() % 3 == k"], setup="k = 0") for n in range(9)
    ]
    verdicts = [outcome.verdict for outcome in run_answers(answers, Programs())]
    assert verdicts == [Verdict.PASSED, Verdict.FAILED, Verdict.FAILED] * 3


def test_a_machine_that_cannot_hold_programs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def offer(filters_calls: bool, landlock: int) -> None:
        monkeypatch.setattr(
            programs, "find_isolation", lambda: Isolation(filters_calls=filters_calls, landlock=landlock)
        )

    offer(True, 0)
    with pytest.raises(UserError, match="has no Landlock") as caught:
        check_isolation(None)
    assert caught.value.problems[0].where == "spec.evaluation.metrics"
    assert check_isolation(Programs(isolation=ProgramIsolation.PARTIAL)).landlock == 0
    offer(False, 0)
    with pytest.raises(UserError, match="only on Linux"):
        check_isolation(Programs(isolation=ProgramIsolation.PARTIAL))


def test_limits_of_a_job() -> None:
    limits = limits_of(Programs(timeout_seconds=2.5, memory="1Gi"))
    assert (limits.seconds, limits.memory) == (2.5, 2**30)


@pytest.mark.parametrize(
    ("text", "value"), [("500m", 0.5), ("2", 2), ("1.5Gi", 1.5 * 2**30), ("3k", 3000), ("1Mi", 2**20)]
)
def test_quantities(text: str, value: float) -> None:
    assert parse_quantity(text) == value
