"""What all tests share: a runner of commands, and settings of Hypothesis.

Examples have no deadlines, because machines are shared, and are fixed in CI.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.runner import Runner

settings.register_profile(
    "shared machine",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared machine")


@pytest.fixture
def runner(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Runs commands on one job in the folder of the test."""
    return Runner(tmp_path, capsys, monkeypatch)
