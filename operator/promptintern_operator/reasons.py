"""The reasons that may become labels of metrics. Every other reason is counted as ``OTHER_REASON``.

A reason may come from the status of a RayJob, which tenants with rights on RayJobs can write, so the number of reasons
must have a bound.
"""

from promptintern_operator.plan.classify import STUCK
from promptintern_operator.plan.denials import DENIALS, INVALID, NOT_DELETED
from promptintern_operator.plan.endings import UNSUPPORTED_RUN_FORMAT

OTHER_REASON = "Other"
DENIAL_REASONS = (*DENIALS, INVALID, NOT_DELETED, OTHER_REASON)
"""The reasons for which the API server denies a request of the operator."""
_NOT_STARTED = (*(reason for reason in STUCK if reason != "ErrImagePull"), "CreateFailed", "QuotaExceeded", INVALID)
"""The reasons for which a check or an attempt cannot start. ErrImagePull is reported as ImagePullBackOff."""
_KUBERAY = (
    *("AppFailed", "SubmissionFailed", "PreRunningDeadlineExceeded"),
    "JobDeploymentStatusTransitionGracePeriodExceeded",
)
"""KubeRay's own reasons for the end of a RayJob."""
FAILURE_REASONS = (
    *("Refused", "ValidationFailed", "OutOfMemory", "InfrastructureFailed", "TrainerFailed", "Stopped"),
    *("Preempted", "PodDeleted", "PodLost", "HeadLost", "NotSubmitted", "RayJobDeleted", UNSUPPORTED_RUN_FORMAT),
    *("ClusterFailed", "ClusterNotUp", "PodsRefused", "DeadlineExceeded", "NamespaceTerminating"),
    *_NOT_STARTED,
    *_KUBERAY,
    OTHER_REASON,
)
"""The reasons for which an attempt fails."""
ENDING_REASONS = (
    *("Succeeded", "Refused", "RetriesExhausted", UNSUPPORTED_RUN_FORMAT, "DeadlineExceeded", "CheckFailed"),
    *("CheckHasNoPod", "NamespaceTerminating"),
    *_NOT_STARTED,
    OTHER_REASON,
)
"""The reasons for which a job ends."""


def bounded(reason: str | None, reasons: tuple[str, ...]) -> str:
    """Return ``reason`` if it is one of ``reasons``, or else ``OTHER_REASON``."""
    return reason if reason in reasons else OTHER_REASON
