"""The reasons that `helm test` gives for an operator that is not ready."""

import importlib.util
from typing import Any

import pytest

from tests.unit.chart.conftest import CHART


def why_it_waits(status: dict[str, Any]) -> str:
    spec = importlib.util.spec_from_file_location("check", CHART / "files" / "check.py")
    assert spec is not None and spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    reason: str = check.why_it_waits({"metadata": {"name": "a"}, "status": status})
    return reason


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]},
            "ErrImagePull: not found",
        ),
        (
            {
                "containerStatuses": [
                    {
                        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
                    }
                ]
            },
            "CrashLoopBackOff: back-off 40s; OOMKilled: exit code 137",
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"},
                    {"type": "Other", "status": "True", "message": "fine"},
                ],
            },
            "Unschedulable: 0/1 nodes",
        ),
        (
            {
                "phase": "Running",
                "containerStatuses": [{"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
                "conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status"}],
            },
            "Ready: containers with unready status",
        ),
        ({"phase": "Running"}, "phase Running"),
        ({}, "phase unknown"),
    ],
)
def test_the_status_of_a_pod_gives_the_reason(status: dict[str, Any], reason: str) -> None:
    assert why_it_waits(status) == reason
