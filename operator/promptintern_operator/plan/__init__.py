"""The heart of the operator: what is true of a job, and what to do about it. No I/O, and no clock but the one given."""

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
