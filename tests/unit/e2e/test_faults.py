"""A fault that fails halfway leaves the cluster as it was, or the faults after it would prove nothing."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from tests.cluster.errors import CommandFailed
from tests.e2e import faults


@pytest.mark.parametrize(
    ("fault", "stop", "start"),
    [
        (faults.stop_api_server, "stop_api_server", "start_api_server"),
        (faults.stop_storage, "s3.stop", "s3.start"),
        (faults.stop_kuberay, "stop_kuberay", "start_kuberay"),
        (faults.drain_node, "drain", "uncordon"),
    ],
)
def test_what_was_stopped_is_started_even_if_stopping_it_failed(
    fault: Any, stop: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults.time, "sleep", lambda _seconds: None)
    cluster = Mock()
    cluster.configure_mock(**{f"{stop}.side_effect": CommandFailed(["kubectl"], 1, "timed out")})
    with pytest.raises(CommandFailed):
        fault(SimpleNamespace(cluster=cluster), "a-job")
    started = cluster
    for part in start.split("."):
        started = getattr(started, part)
    started.assert_called_once_with()
