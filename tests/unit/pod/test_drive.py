"""The driver in the head pod: its last status says who has to act."""

from pathlib import Path
from typing import Any

import pytest
from promptintern import leaving
from promptintern.errors import InfrastructureFailed, RunFailed, UserError
from promptintern.pod import drive as module
from promptintern.storage.run import FencedOut

from tests.unit.operator.builders import job
from tests.unit.operator.jobs import STORAGE


@pytest.mark.parametrize(
    ("raised", "who"),
    [
        (UserError.at("spec.x", "is wrong"), "User"),
        (RunFailed("the loss is not finite"), "Application"),
        (InfrastructureFailed("the storage is away"), "Infrastructure"),
        (FencedOut("another process took over", claimant="other"), "Infrastructure"),
    ],
)
def test_the_last_status_says_who_has_to_act(
    raised: Exception, who: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    statuses: list[dict[str, Any]] = []

    class Run:
        class store:  # noqa: N801 -- stands for an attribute
            uri = "s3://team-a/runs/x"

    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(module, "open_run", lambda *_: Run)

    def write(status: dict[str, Any]) -> None:
        assert leaving.processes(tmp_path, "driver"), "the preStop hook must wait for the last status"
        statuses.append(status)

    monkeypatch.setattr(module, "patch_of", lambda _: write)
    monkeypatch.setattr(module, "run_job", fail)
    monkeypatch.setenv("PROMPTINTERN_RAY_JOB", "small-a1")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("PROMPTINTERN_POD_FOLDER", str(tmp_path))
    observer: Any = object()
    with pytest.raises(type(raised)):
        module.drive(job(storage=STORAGE), observer)
    assert (statuses[-1]["failure"]["class"], statuses[-1]["failure"]["rayJob"]) == (who, "small-a1")
    assert not leaving.processes(tmp_path, "driver")


def test_a_ray_cluster_without_a_token_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its KubeRay is older than its CustomResourceDefinitions, and gave it no token."""
    monkeypatch.setenv("PROMPTINTERN_RAY_JOB", "small-a1")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(InfrastructureFailed, match=r"no token.*KubeRay 1\.5"):
        module._check_ray()
