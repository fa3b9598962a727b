"""Messages say what people can do where they are: at their own machine, or as the author of a job in a cluster."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import promptintern
import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from huggingface_hub.errors import GatedRepoError
from promptintern import advice
from promptintern.cli import app
from promptintern.models import fetch
from promptintern.run.driver import _raise_ending
from promptintern.storage.local import classify_error as classify_local
from promptintern.storage.retry import RetryPolicy, Transient
from promptintern.storage.s3_errors import FailedRequest, classify_error
from promptintern_api.contract import ENV_JOB

LAPTOP = re.compile(r"same command|profile|this machine|HF_TOKEN|~/|run again|PROMPTINTERN_STORAGE_DEADLINE_SECONDS")
"""What only somebody who ran a command can do."""
CLUSTER = re.compile(r"spec\.(?:storage|model\.secretRef|retries)|submit job small again|the operator")


def refused() -> str:
    answer = {"Error": {"Code": "ExpiredToken", "Message": "old"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    return s3(ClientError(answer, "PutObject"))  # type: ignore[arg-type]


def s3(error: Exception) -> str:
    request = FailedRequest.of(error, operation="PutObject", bucket="b", key="k", endpoint="https://s3.example")
    return str(classify_error(request))


def away() -> str:
    def work() -> None:
        raise Transient("server is away")

    with pytest.raises(Exception, match="server is away") as failed:
        RetryPolicy(deadline=0).run(work, operation="PutObject", about={"bucket": "b"})
    return str(failed.value)


def no_space() -> str:
    return str(classify_local(OSError(28, "No space left on device"), Path("/"), "write"))


def gated() -> str:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Exception, match="is gated") as failed:
        patch.setattr("huggingface_hub.snapshot_download", _gated)
        fetch._from_hub("hf://team/model", None, "spec.model.uri")
    return str(failed.value)


def _gated(*_: object, **__: object) -> None:
    error = GatedRepoError.__new__(GatedRepoError)
    raise error


def lost_workers() -> str:
    with pytest.raises(Exception, match="the workers failed") as failed:
        _raise_ending(None, RuntimeError("they are gone"))
    return str(failed.value)


def no_credentials() -> str:
    return s3(NoCredentialsError())


MESSAGES = [refused, no_credentials, away, no_space, gated, lost_workers]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_command_gets_the_advice_for_a_machine(message: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_JOB, raising=False)
    assert LAPTOP.search(message())
    assert not CLUSTER.search(message())


@pytest.mark.parametrize("message", MESSAGES)
def test_a_pod_of_a_job_gets_the_advice_for_its_author(
    message: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_JOB, "small")
    assert CLUSTER.search(message())
    assert not LAPTOP.search(message())


def test_advice_for_a_machine_is_nowhere_else() -> None:
    """Commands that only people run may give such advice themselves."""
    package = Path(promptintern.__file__).parent
    shared = [
        path
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] not in ("cli", "cluster", "advice.py", "sample")
    ]
    found = [
        f"{path.name}: {node.value}"
        for path in shared
        for tree in [ast.parse(path.read_text())]
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and LAPTOP.search(node.value)
        if node.value not in docstrings(tree)
    ]
    assert len(shared) > 80
    assert found == []


def docstrings(tree: ast.AST) -> set[str]:
    """Return every string that is a statement of its own."""
    return {
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


@pytest.mark.parametrize("job", ["", "small"])
def test_the_traceback_of_a_bug_is_where_people_can_read_it(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The files of a pod are lost with the pod, and its log is kept."""
    monkeypatch.setenv(ENV_JOB, job)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken() -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(app, "app", broken)
    with pytest.raises(SystemExit):
        app.main()
    printed = capsys.readouterr().err
    assert "failed: AssertionError: a bug" in printed
    assert ("Traceback" in printed) is bool(job)
    assert [("Traceback" in path.read_text()) for path in tmp_path.iterdir()] == ([] if job else [True])
    assert advice.is_in_job() is bool(job)
