"""The pure core of the operator, which derives the status of a job and the next actions without I/O or a clock."""

from promptintern_operator.plan.core import plan, unreadable
from promptintern_operator.plan.types import (
    Action,
    DeleteJob,
    DeletePreflight,
    DeleteRayJob,
    Denial,
    EventRecord,
    KubeRay,
    Limits,
    Observed,
    Plan,
    StartAttempt,
    StartPreflight,
)

__all__ = [
    "Action",
    "DeleteJob",
    "DeletePreflight",
    "DeleteRayJob",
    "Denial",
    "EventRecord",
    "KubeRay",
    "Limits",
    "Observed",
    "Plan",
    "StartAttempt",
    "StartPreflight",
    "plan",
    "unreadable",
]
