"""What the operator reads from its pods."""

import json

import pytest
import typer
from promptintern.cli.findings import exiting_on_infrastructure_failure, findings_json
from promptintern.errors import InfrastructureFailed, Problem, RunFailed


def test_a_failure_of_the_infrastructure_has_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, exiting_on_infrastructure_failure():
        raise InfrastructureFailed("the storage is away")
    assert ended.value.exit_code == 75
    assert "the storage is away" in capsys.readouterr().err


def test_other_failures_are_left_alone() -> None:
    with pytest.raises(RunFailed), exiting_on_infrastructure_failure():
        raise RunFailed("the loss is not finite")


@pytest.mark.parametrize("letter", ["x", "ü", "語", "🙂", '"', "\n", "\x01"])
@pytest.mark.parametrize("where", ["spec.data.train.uri", "s3://" + "語" * 5000])
@pytest.mark.parametrize("others", [0, 3])
def test_a_long_finding_is_cut_and_not_dropped(letter: str, where: str, others: int) -> None:
    text = findings_json([Problem(where=where, message="wrong: " + letter * 5000)] * (1 + others))
    assert len(text.encode()) <= 4000
    first, *rest = json.loads(text)
    assert first["where"][:5] == where[:5]
    assert first["message"].startswith(f"wrong: {letter * 100}")
    assert first["message"].endswith("…")
    assert set(first["message"][len("wrong: ") : -1]) == {letter}, "no letter was split"
    assert not rest or rest[-1]["message"].startswith(("and ", "wrong: "))


def test_findings_that_fit_are_kept_as_they_are() -> None:
    problems = [Problem(where="spec.x", message="is wrong"), Problem(where="spec.y", message="is missing")]
    assert json.loads(findings_json(problems)) == [
        {"where": "spec.x", "message": "is wrong"},
        {"where": "spec.y", "message": "is missing"},
    ]


def test_findings_that_do_not_fit_are_counted() -> None:
    listed = json.loads(findings_json([Problem(where="spec.x", message="is wrong" * 10)] * 100))
    assert listed[-1] == {"where": "", "message": f"and {101 - len(listed)} more"}
    assert len(listed) > 20


def test_no_limit_is_too_small() -> None:
    assert json.loads(findings_json([Problem(where="spec.x", message="is wrong")], limit=10))[0]["where"] == "spec.x"
