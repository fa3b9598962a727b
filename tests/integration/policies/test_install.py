"""Helm itself on a real API server: install, upgrade, `helm test`'s program, uninstall."""

import http.server
import importlib.util
import threading
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.integration.policies.conftest import CHART, RELEASE, job

SYSTEM = "promptintern-system"


@pytest.fixture(scope="module")
def server(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server of this file's own, since the CRD belongs to one release; the shared one says if there is any."""
    with ApiServer(tmp_path_factory.mktemp("api")) as found:
        yield found


def test_install_upgrade_uninstall(server: ApiServer) -> None:
    said = server.helm("install", RELEASE, str(CHART), "--namespace", SYSTEM, "--create-namespace")
    assert "deployment/promptintern" in said and "this release has no default storage" in said
    server.wait_for(lambda: "PromptInternJob" in server.kubectl("explain", "pij"))
    server.apply(job("stays"), namespace="default")

    more = ("--reuse-values", "--set", "defaultStorage.uri=s3://b,defaultStorage.secretName=s3", "--set", "replicas=3")
    said = server.helm("upgrade", RELEASE, str(CHART), "--namespace", SYSTEM, *more)
    assert "s3://b unless a job has its own spec.storage" in said and "create secret generic s3" in said
    deployment = server.get("deployment", RELEASE, SYSTEM)
    assert deployment is not None and deployment["spec"]["replicas"] == 3

    said = server.helm("uninstall", RELEASE, "--namespace", SYSTEM)
    assert "promptinternjobs.promptintern.dev" in said  # kept, as Helm says
    assert server.get("promptinternjob", "stays", "default") is not None
    for kind in ("validatingadmissionpolicies", "validatingadmissionpolicybindings", "clusterrolebindings"):
        left = server.kubectl("get", kind, "-o", "name", "-l", f"app.kubernetes.io/instance={RELEASE}")
        assert not left

    server.helm("install", RELEASE, str(CHART), "--namespace", SYSTEM, "--set", "namespaces={default}")
    assert server.get("promptinternjob", "stays", "default") is not None


class _Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def ready() -> Iterator[str]:
    """An operator that is ready."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Ready) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/readyz"
        listening.shutdown()


def test_the_program_of_helm_test(
    server: ApiServer, ready: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the real API server: with the policy, and without."""
    server.helm("upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM, "--reset-values")
    namespaced = ("--namespace", SYSTEM)
    server.kubectl("create", "serviceaccount", "check", *namespaced)
    server.kubectl("create", "role", "check", "--verb=create", "--resource=promptinternjobs", *namespaced)
    server.kubectl("create", "rolebinding", "check", "--role=check", f"--serviceaccount={SYSTEM}:check", *namespaced)
    (tmp_path / "token").write_text(server.token("check", SYSTEM))
    authority = server.server()["cluster"]["certificate-authority-data"]
    (tmp_path / "ca.crt").write_bytes(b64decode(authority))
    host, port = server.url.removeprefix("https://").split(":")
    for name, value in {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": port,
        "READY_URL": ready,
        "NAMESPACE": SYSTEM,
        "POLICY": "promptintern-deputy",
    }.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("check", CHART / "files" / "check.py")
    assert spec is not None and spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    monkeypatch.setattr(check, "ACCOUNT", tmp_path)

    def passes() -> bool:
        try:
            check.main()
        except SystemExit:
            return False
        return True

    monkeypatch.setenv("DEPUTY", "true")
    server.wait_for(passes, timeout=20, what="the policy to hold")
    assert "may not create pods" in capsys.readouterr().out
    monkeypatch.setenv("DEPUTY", "false")
    assert not passes()
    server.helm("upgrade", RELEASE, str(CHART), "--namespace", SYSTEM, "--set", "policies.deputy.enabled=false")
    server.wait_for(passes, timeout=20, what="the job to be taken")
