"""A namespace of a real API server, and the commands as a user types them."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cli import Ran, promptintern
from tests.cluster import fixtures
from tests.cluster.api_server import ApiServer
from tests.unit.api.documents import small_job, with_changes

api_server = fixtures.api_server

CRD = Path("crds/promptinternjobs.promptintern.dev.yaml")

Command = Callable[..., Ran]


@pytest.fixture(scope="session")
def installed(api_server: ApiServer) -> ApiServer:
    """The API server with our CRD."""
    api_server.install_crds(CRD)
    return api_server


@pytest.fixture
def namespace(installed: ApiServer) -> str:
    """A namespace for one test."""
    name = f"cli-{uuid.uuid4().hex[:8]}"
    installed.kubectl("create", "namespace", name)
    return name


@pytest.fixture
def command(
    installed: ApiServer, namespace: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """``promptintern ARGUMENTS -n NAMESPACE`` as the administrator."""
    monkeypatch.setenv("KUBECONFIG", str(installed.kubeconfig))

    def run(*arguments: str | Path) -> Ran:
        return promptintern(*arguments, "-n", namespace, capsys=capsys, monkeypatch=monkeypatch)

    return run


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes the small job with changes, such as ``{"spec.training.seed": 1}``."""

    def write(changes: dict[str, object] | None = None) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(with_changes(small_job(), changes or {})))
        return path

    return write
