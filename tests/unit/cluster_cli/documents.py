"""Jobs as an API server returns them."""

from datetime import UTC, datetime
from typing import Any

from promptintern.cluster.objects import Job

from tests.unit.api.documents import small_job, with_changes

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
EARLIER = "2026-01-02T10:57:00Z"


def stored(changes: dict[str, Any] | None = None, **status: Any) -> Job:
    """Return the small job in namespace team-a with a status."""
    meta = {
        "metadata.namespace": "team-a",
        "metadata.uid": "0b5b9fcc-d6a8-4fd5-84ba-f7f2c53a07f2",
        "metadata.resourceVersion": "1",
        "metadata.generation": 1,
        "metadata.creationTimestamp": EARLIER,
    }
    return Job.from_document(
        with_changes(small_job(), meta | (changes or {})) | {"status": {"observedGeneration": 1} | status}
    )


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    """Return a condition."""
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": EARLIER}


def training() -> Job:
    """Return a job in its second stage and second attempt."""
    accepted = condition("Accepted", "True", "Valid", "data and model are as they should be")
    return stored(
        phase="Training",
        stage="2/4",
        startTime=EARLIER,
        conditions=[accepted, condition("Training", "True", "Running", "attempt 2 runs as RayJob small-a2")],
        attempts=[
            {
                "number": 1,
                "rayJobName": "small-a1",
                "startedAt": EARLIER,
                "finishedAt": EARLIER,
                "headPods": 1,
                "outcome": "Infrastructure",
                "message": "node worker-7 went away\x1b[31m",
            },
            {
                "number": 2,
                "rayJobName": "small-a2",
                "startedAt": EARLIER,
                "headPods": 1,
                "pods": [{"name": "small-a2-w", "node": "n1", "reason": "OOMKilled", "exitCode": 137}],
            },
        ],
        training={
            "term": 2,
            "stages": [
                {
                    "index": 0,
                    "rate": 1,
                    "shots": 5,
                    "promptTokens": 1234.5,
                    "loss": 0.51234,
                    "score": 0.875,
                    "startedAt": EARLIER,
                    "finishedAt": "2026-01-02T11:30:00Z",
                },
                {"index": 1, "rate": 0.67, "shots": 3, "promptTokens": 800.25, "startedAt": "2026-01-02T11:30:00Z"},
            ],
            "progress": {"step": 30, "total": 120, "tokensPerSecond": 12345.6, "etaSeconds": 5400},
        },
    )
