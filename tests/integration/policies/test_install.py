"""Helm itself on a real API server: install, upgrade, `helm test`'s program, uninstall."""

import http.server
import importlib.util
import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

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
    assert "no public registry carries the images" in said
    server.wait_for(lambda: "PromptInternJob" in server.kubectl("explain", "pij"))
    server.apply(job("stays"), namespace="default")

    more = (
        "--reset-then-reuse-values",
        "--set",
        "defaultStorage.uri=s3://b,defaultStorage.secretName=s3",
        "--set",
        "replicas=3",
    )
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


@pytest.fixture
def check(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program of `helm test`, with the rights that the chart gives it."""
    server.helm("upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM, "--reset-values")
    hooks = [item for item in yaml.safe_load_all(server.helm("get", "hooks", RELEASE, "--namespace", SYSTEM)) if item]
    server.apply([item for item in hooks if item["kind"] != "Pod"])
    (pod,) = (item for item in hooks if item["kind"] == "Pod")
    (container,) = pod["spec"]["containers"]
    (tmp_path / "token").write_text(server.token(pod["spec"]["serviceAccountName"], SYSTEM))
    authority = server.server()["cluster"]["certificate-authority-data"]
    (tmp_path / "ca.crt").write_bytes(b64decode(authority))
    host, port = server.url.removeprefix("https://").split(":")
    settings = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    for name, value in (settings | {each["name"]: each["value"] for each in container["env"]}).items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("check", CHART / "files" / "check.py")
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.setattr(program, "ACCOUNT", tmp_path)
    return program


def test_the_program_of_helm_test(
    server: ApiServer,
    check: ModuleType,
    ready: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Against the real API server: with the policy, and without."""
    monkeypatch.setenv("READY_URL", ready)

    def passes() -> bool:
        try:
            check.main()
        except SystemExit:
            return False
        return True

    server.wait_for(passes, timeout=20, what="the policy to hold")
    assert "may not create pods" in capsys.readouterr().out
    monkeypatch.setenv("DEPUTY", "false")
    assert not passes()
    server.helm("upgrade", RELEASE, str(CHART), "--namespace", SYSTEM, "--set", "policies.deputy.enabled=false")
    server.wait_for(passes, timeout=20, what="the job to be taken")


def test_helm_test_says_why_no_replica_is_ready(
    server: ApiServer, check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No kubelet runs here, so the test writes the status of a pod whose image cannot be pulled."""
    monkeypatch.setenv("READY_URL", "http://127.0.0.1:1/readyz")
    monkeypatch.setattr(check, "TIMEOUT_SECONDS", 0)
    with pytest.raises(SystemExit, match="no replica is ready") as none:
        check.main()
    assert "there are no pods of the operator" in str(none.value)
    deployment = server.get("deployment", RELEASE, SYSTEM)
    assert deployment is not None
    template = deployment["spec"]["template"]
    name = f"{RELEASE}-0"
    server.apply(
        {"apiVersion": "v1", "kind": "Pod", **template, "metadata": template["metadata"] | {"name": name}},
        namespace=SYSTEM,
    )
    message = 'Back-off pulling image "promptintern/operator:0.1.0"'
    container = {"name": "operator", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    container["state"] = {"waiting": {"reason": "ImagePullBackOff", "message": message}}
    status = json.dumps({"status": {"phase": "Pending", "containerStatuses": [container]}})
    server.kubectl(
        "patch", "pod", name, "--namespace", SYSTEM, "--subresource=status", "--type=merge", "--patch", status
    )
    with pytest.raises(SystemExit) as waiting:
        check.main()
    assert f"pod {name}: ImagePullBackOff: {message}" in str(waiting.value)
    server.delete("pod", name, SYSTEM)
