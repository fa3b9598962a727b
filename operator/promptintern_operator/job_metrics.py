"""The metrics of jobs by namespace, of which there may only be a bounded number."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from promptintern_api import PromptInternJob
from promptintern_api.status import Outcome, Phase

from promptintern_operator.metrics import ATTEMPT_FAILURES, ATTEMPTS, DENIALS, JOBS, JOBS_ENDED, STAGE_SECONDS
from promptintern_operator.plan import Denial, Plan
from promptintern_operator.reasons import DENIAL_REASONS, ENDING_REASONS, FAILURE_REASONS, bounded

MOST_NAMESPACES = 200
"""The number of namespaces that have series of their own at the same time."""
OTHER_NAMESPACES = "_other"
"""The label of all further namespaces. No namespace can have this name."""
FORGET_SECONDS = 3600.0
"""The time for which a namespace without jobs keeps its series, so that Prometheus reads their last values."""
_FAILURES = (Outcome.USER, Outcome.APPLICATION, Outcome.INFRASTRUCTURE, Outcome.PREEMPTION)
_LABELS = (
    (JOBS, tuple(Phase)),
    (JOBS_ENDED, ENDING_REASONS),
    (ATTEMPTS, tuple(Outcome)),
    (DENIALS, DENIAL_REASONS),
)
"""The metrics with the label ``namespace``, each with all values of its other label."""


class JobMetrics:
    """The series of the namespaces that have jobs. The series of a namespace begin at 0, and all at once."""

    def __init__(self) -> None:
        self._last_seen: dict[str, float] = {}
        """The time at which each namespace with series last had a job."""

    def begin(self, namespace: str, now: float | None = None) -> str:
        """Begin the series of ``namespace`` unless they exist, and return its label.

        Args:
            namespace: A namespace with a job.
            now: The current time in seconds, on a clock that only moves forward; by default, the monotonic clock.
        """
        if namespace not in self._last_seen and len(self._last_seen) >= MOST_NAMESPACES:
            namespace = OTHER_NAMESPACES
        if namespace not in self._last_seen:
            self._last_seen[namespace] = time.monotonic() if now is None else now
            for metric, values in _LABELS:
                for value in values:
                    metric.labels(namespace, value)
        return namespace

    def update(self, jobs: Mapping[tuple[str, str], int], now: float | None = None) -> None:
        """Set the number of jobs in each namespace and phase, and drop the series of namespaces that had none for long.

        Args:
            jobs: The number of jobs by namespace and phase.
            now: As for ``begin``.
        """
        now = time.monotonic() if now is None else now
        counts: Counter[tuple[str, str]] = Counter()
        for (namespace, phase), count in jobs.items():
            label = self.begin(namespace, now)
            self._last_seen[label] = now
            counts[label, phase] += count
        for label, last_seen in list(self._last_seen.items()):
            for phase in Phase:
                JOBS.labels(label, phase).set(counts[label, phase])
            if now - last_seen > FORGET_SECONDS:
                self._drop(label)

    def count_changes(self, before: Mapping[str, Any], plan: Plan, job: PromptInternJob) -> None:
        """Count the attempt and the job that a plan has ended.

        Args:
            before: The status of the job before the plan.
            plan: The plan, whose status has been written.
            job: The job with the status before the plan.
        """
        label, after = self.begin(job.metadata.namespace), plan.status
        ended = {attempt["number"] for attempt in before.get("attempts", []) if attempt.get("outcome")}
        for attempt in after.get("attempts", []):
            if attempt.get("outcome") and attempt["number"] not in ended:
                ATTEMPTS.labels(label, attempt["outcome"]).inc()
                if attempt["outcome"] in _FAILURES:
                    ATTEMPT_FAILURES.labels(bounded(plan.attempt_ending, FAILURE_REASONS)).inc()
        if after.get("completionTime") and not before.get("completionTime"):
            JOBS_ENDED.labels(label, bounded(after.get("reason"), ENDING_REASONS)).inc()
        training = job.status.training if job.status else None
        has_succeeded = after.get("phase") == Phase.SUCCEEDED and before.get("phase") != Phase.SUCCEEDED
        if has_succeeded and training is not None:
            # The head pod wrote these numbers. They must not disturb a metric that all tenants share.
            longest = sum(attempt.get("activeSeconds", 0.0) for attempt in after["attempts"])
            for stage in training.stages:
                if stage.seconds is not None and stage.index < job.spec.schedule.num_stages:
                    STAGE_SECONDS.labels(stage=str(stage.index)).observe(min(stage.seconds, longest))

    def count_denial(self, namespace: str, denial: Denial) -> None:
        """Count a request for an object of a job in ``namespace`` that the API server denied."""
        DENIALS.labels(self.begin(namespace), bounded(denial.reason, DENIAL_REASONS)).inc()

    def _drop(self, label: str) -> None:
        del self._last_seen[label]
        for metric, values in _LABELS:
            for value in values:
                metric.remove(label, value)


JOB_METRICS = JobMetrics()
"""The series of this process, which are as global as the registry of Prometheus."""
