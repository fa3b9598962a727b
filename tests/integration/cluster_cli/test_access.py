"""No cluster, no rights, no CRD: one clear sentence and exit code 2; exit code 1 if a server does not answer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cli import Ran, promptintern
from tests.cluster.api_server import ApiServer
from tests.cluster.client import write_kubeconfig
from tests.integration.cluster_cli.conftest import Command
from tests.integration.cluster_cli.moves import grant, rule

Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(kubeconfig: Path | str, *arguments: str | Path) -> Ran:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        return promptintern(*arguments, capsys=capsys, monkeypatch=monkeypatch)

    return run


def one_sentence(ran: Ran, code: int) -> str:
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err + ran.out
    lines = ran.err.strip().splitlines()
    assert len(lines) == 1, ran.err
    return lines[0]


def test_no_kubeconfig(run: Run, tmp_path: Path) -> None:
    message = one_sentence(run(tmp_path / "none", "status"), 2)
    assert str(tmp_path / "none") in message
    assert "KUBECONFIG" in message


@pytest.mark.parametrize("text", ["{", "[]", "a: b", "", "contexts: 3"])
def test_a_file_that_is_no_kubeconfig(run: Run, tmp_path: Path, text: str) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    assert str(file) in one_sentence(run(file, "status"), 2)


def test_a_context_that_is_not_there(run: Run, installed: ApiServer) -> None:
    message = one_sentence(run(installed.kubeconfig, "status", "--context", "tset"), 2)
    assert "--context: no context is named tset" in message


def test_a_server_that_does_not_answer(run: Run, tmp_path: Path) -> None:
    entry = {"cluster": {"server": "https://127.0.0.1:9"}, "user": {"token": "x"}}
    message = one_sentence(run(write_kubeconfig(tmp_path / "config", entry), "status"), 1)
    assert "https://127.0.0.1:9 (context test) cannot be reached (Connection refused)" in message


def test_the_certificate_of_another_server(run: Run, installed: ApiServer, tmp_path: Path) -> None:
    entry = {"cluster": {"server": installed.url}, "user": {"token": "x"}}
    message = one_sentence(run(write_kubeconfig(tmp_path / "config", entry), "status"), 1)
    assert "certificate verify failed" in message


def test_a_token_that_has_expired(run: Run, installed: ApiServer, tmp_path: Path) -> None:
    message = one_sentence(run(installed.kubeconfig_with_token("x", tmp_path / "config"), "status"), 2)
    assert "does not accept your credentials" in message


def test_a_login_program_that_is_missing(run: Run, installed: ApiServer, tmp_path: Path) -> None:
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "no-such-login",
            "interactiveMode": "Never",
        }
    }
    message = one_sentence(
        run(write_kubeconfig(tmp_path / "config", {**installed.server(), "user": user}), "status"), 2
    )
    assert "the login failed" in message
    assert "no-such-login" in message


def test_rights_that_are_missing_are_named(run: Run, installed: ApiServer, namespace: str) -> None:
    message = one_sentence(run(installed.kubeconfig_for("alice"), "status", "-n", namespace), 2)
    assert f"alice may not list promptinternjobs.promptintern.dev in namespace {namespace}" in message
    assert "verb list on promptinternjobs.promptintern.dev" in message


def test_names_that_are_close(command: Command, run: Run, installed: ApiServer, namespace: str, tmp_path: Path) -> None:
    from tests.unit.api.documents import small_job

    installed.apply(small_job(), namespace)
    for arguments in (["status", "smal"], ["logs", "smal"], ["fetch", "smal", tmp_path / "x"]):
        message = one_sentence(command(*arguments), 2)
        assert f"smal: does not exist in namespace {namespace}; did you mean small?" in message
    # A user who may only get jobs learns no names.
    grant(installed, namespace, "bob", rule("promptintern.dev", ["promptinternjobs"], "get"))
    message = one_sentence(run(installed.kubeconfig_for("bob"), "status", "smal", "-n", namespace), 2)
    assert message.endswith(f"does not exist in namespace {namespace}")


def test_promptintern_is_not_installed(run: Run, tmp_path: Path) -> None:
    from tests.cluster.errors import NoCluster

    try:
        with ApiServer(tmp_path / "api") as bare:
            for arguments in (["status"], ["status", "x"]):
                message = one_sentence(run(bare.kubeconfig, *arguments), 2)
                assert "PromptIntern is not installed in this cluster" in message
                assert "helm install" in message
            from tests.cli import write_job
            from tests.unit.api.documents import small_job

            message = one_sentence(run(bare.kubeconfig, "submit", write_job(tmp_path, small_job())), 2)
            assert "PromptIntern is not installed in this cluster" in message
    except NoCluster as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("current", [None, ""])
def test_a_kubeconfig_without_a_current_context(
    current: str | None, run: Run, installed: ApiServer, tmp_path: Path
) -> None:
    known = yaml.safe_load(Path(installed.kubeconfig).read_text())
    name = known["contexts"][0]["name"]
    del known["current-context"]
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(known | ({} if current is None else {"current-context": current})))
    message = one_sentence(run(file, "status"), 2)
    assert "has no current context; give --context NAME" in message
    assert name in message
    assert run(file, "status", "--context", name).code == 0
