"""A trainer that is newer than the CRD of the cluster: what it knows of a job's status is told, the rest left out."""

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
}


def older_crd(folder: Path) -> Path:
    """The CRD as it might have been before it knew losses and shares of time."""
    crd = yaml.safe_load(CRD.read_text())
    (version,) = crd["spec"]["versions"]
    training = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["training"]["properties"]
    del training["stages"]["items"]["properties"]["loss"]
    del training["progress"]["properties"]["timeShares"]
    file = folder / "crd.yaml"
    file.write_text(yaml.safe_dump(crd))
    return file


def test_unknown_fields_are_left_out(api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ApiServer(tmp_path / "api") as server:  # the shared one has the CRD of today, and says if there is none
        server.install_crds(older_crd(tmp_path))
        server.apply(small_job(), namespace="default")
        made = server.get("promptinternjob", "small", "default")
        assert made is not None
        monkeypatch.setattr(config, "load_incluster_config", lambda: config.load_kube_config(str(server.kubeconfig)))
        patch = dropping_unknown_fields(patch_of(PromptInternJob.model_validate(made)))
        with capture_logs() as said:
            patch(TRAINING)
            patch(TRAINING | {"term": 2})
        told = server.get("promptinternjob", "small", "default")
    assert [entry["unknown"] for entry in said] == ["progress.timeShares, stages.loss"], "what is unknown is said once"
    assert told is not None
    known = [{name: value for name, value in stage.items() if name != "loss"} for stage in TRAINING["stages"]]
    assert told["status"]["training"] == {"term": 2, "stages": known, "progress": {"step": 3, "total": 10}}
