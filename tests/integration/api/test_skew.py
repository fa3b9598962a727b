"""A trainer that is newer than the CRD of the cluster writes the fields that the CRD has, and leaves out the others."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import config
from promptintern.pod.status import patch_of
from promptintern.pod.unknown_fields import dropping_unknown_fields
from promptintern_api import PromptInternJob
from structlog.testing import capture_logs

from tests.cluster.api_server import ApiServer
from tests.integration.api.conftest import CRD
from tests.unit.api.documents import small_job

TRAINING: dict[str, Any] = {
    "term": 1,
    "stages": [{"index": index, "rate": 1.0, "shots": 3, "promptTokens": 900.5, "loss": 0.25} for index in (0, 1)],
    "progress": {"step": 3, "total": 10, "timeShares": {"data": 0.5}},
    "failure": {"class": "User", "message": "row 3: 🚀"},  # YAML writes it in another way than JSON
}


def older_crd(folder: Path) -> Path:
    """Write the CRD without losses and shares of time, as an older release might have it."""
    crd = yaml.safe_load(CRD.read_text())
    (version,) = crd["spec"]["versions"]
    training = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["training"]["properties"]
    del training["stages"]["items"]["properties"]["loss"]
    del training["progress"]["properties"]["timeShares"]
    file = folder / "crd.yaml"
    file.write_text(yaml.safe_dump(crd))
    return file


def test_unknown_fields_are_left_out(api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The shared API server has the current CRD; it skips the test if there is none.
    with ApiServer(tmp_path / "api") as server:
        server.install_crds(older_crd(tmp_path))
        server.apply(small_job(), namespace="default")
        job = server.get("promptinternjob", "small", "default")
        assert job is not None
        monkeypatch.setattr(config, "load_incluster_config", lambda: config.load_kube_config(str(server.kubeconfig)))
        patch = dropping_unknown_fields(patch_of(PromptInternJob.model_validate(job)))
        with capture_logs() as entries:
            patch(TRAINING)
            patch(TRAINING | {"term": 2})
        updated = server.get("promptinternjob", "small", "default")
    assert [entry["unknown"] for entry in entries] == ["progress.timeShares, stages.loss"], "they are logged once"
    assert updated is not None
    known = [{name: value for name, value in stage.items() if name != "loss"} for stage in TRAINING["stages"]]
    others = {"progress": {"step": 3, "total": 10}, "failure": TRAINING["failure"]}
    assert updated["status"]["training"] == {"term": 2, "stages": known, **others}
