"""A CRD that was applied by hand before the chart was installed: Helm does what docs/install.md says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.errors import CommandFailed
from tests.integration.api.conftest import CRD
from tests.unit.api.documents import small_job

CHART = Path(__file__).parents[3] / "charts" / "promptintern"
INSTALL = ("install", "promptintern", str(CHART), "--namespace", "promptintern-system", "--create-namespace")
NAME = "promptinternjobs.promptintern.dev"


@pytest.fixture
def bare(api_server: ApiServer, tmp_path: Path) -> Iterator[ApiServer]:
    """An API server for this test alone, with the CRD and a job. The shared one skips the test if there is none."""
    with ApiServer(tmp_path / "api") as server:
        server.install_crds(CRD)
        server.apply(small_job(), namespace="default")
        yield server


def test_the_chart_takes_the_crd_over_or_leaves_it_alone(bare: ApiServer) -> None:
    with pytest.raises(CommandFailed, match="exists and cannot be imported into the current release"):
        bare.helm(*INSTALL)

    bare.helm(*INSTALL, "--set", "crds.install=false")
    assert "helm" not in str(_crd(bare)["metadata"].get("annotations", {}))
    bare.helm("uninstall", "promptintern", "--namespace", "promptintern-system")

    bare.helm(*INSTALL, "--take-ownership")
    assert _crd(bare)["metadata"]["annotations"]["meta.helm.sh/release-name"] == "promptintern"
    bare.helm("upgrade", *INSTALL[1:5], "--reset-then-reuse-values")
    output = bare.helm("uninstall", "promptintern", "--namespace", "promptintern-system")
    assert NAME in output  # kept
    assert bare.get("promptinternjob", "small", "default") is not None


def _crd(server: ApiServer) -> dict[str, dict[str, dict[str, str]]]:
    crd = server.get("customresourcedefinition", NAME)
    assert crd is not None
    return crd
