"""What the operator reads of its pods."""

import pytest
import typer
from promptintern.cli.findings import EXIT_INFRASTRUCTURE, infrastructure_told
from promptintern.errors import InfrastructureFailed, RunFailed


def test_a_failure_of_the_infrastructure_has_an_exit_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, infrastructure_told():
        raise InfrastructureFailed("the storage is away")
    assert ended.value.exit_code == EXIT_INFRASTRUCTURE
    assert "the storage is away" in capsys.readouterr().err


def test_other_failures_are_left_alone() -> None:
    with pytest.raises(RunFailed), infrastructure_told():
        raise RunFailed("the loss is not finite")
