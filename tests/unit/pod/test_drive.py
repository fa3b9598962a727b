"""The driver in the head pod: its last word says who has to act."""

from typing import Any

import pytest
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
def test_the_last_word_says_who_has_to_act(raised: Exception, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    class Run:
        class store:  # noqa: N801 -- stands for an attribute
            uri = "s3://team-a/runs/x"

    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(module, "open_run", lambda *_: Run)
    monkeypatch.setattr(module, "patch_of", lambda _: told.append)
    monkeypatch.setattr(module, "run_job", fail)
    monkeypatch.setenv("PROMPTINTERN_RAY_JOB", "small-a1")
    observer: Any = object()
    with pytest.raises(type(raised)):
        module.drive(job(storage=STORAGE), observer)
    assert (told[-1]["failure"]["class"], told[-1]["failure"]["rayJob"]) == (who, "small-a1")
