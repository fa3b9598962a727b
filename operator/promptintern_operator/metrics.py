"""The metrics that the operator exposes to Prometheus. docs/monitoring.md describes each of them.

A counter with known labels begins at 0, so that Prometheus sees its first increase. ``job_metrics.py`` sees to this for
the metrics with the label ``namespace``. No label has a value that tenants can choose freely.
"""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics
from promptintern_api.kind import PLURAL

from promptintern_operator.reasons import FAILURE_REASONS

disable_created_metrics()  # type: ignore[no-untyped-call]  # the time at which each series began is a series, too

JOBS = Gauge("promptintern_jobs", "Number of PromptInternJobs, by namespace and phase.", ["namespace", "phase"])
JOBS_ENDED = Counter(
    "promptintern_jobs_ended", "Number of times that a job has ended, by namespace and reason.", ["namespace", "reason"]
)
ATTEMPTS = Counter(
    "promptintern_attempts_ended",
    "Number of attempts that have ended, by namespace and outcome.",
    ["namespace", "outcome"],
)
ATTEMPT_FAILURES = Counter(
    "promptintern_attempt_failures", "Number of attempts that have failed, by reason.", ["reason"]
)
DENIALS = Counter(
    "promptintern_denials",
    "Number of times that the API server denied the creation or deletion of a job's object, by namespace and reason.",
    ["namespace", "reason"],
)
STAGE_SECONDS = Histogram(
    "promptintern_stage_seconds",
    "Duration of finished stages, by stage index.",
    ["stage"],
    buckets=(10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400),
)
RECONCILES = Counter("promptintern_reconciles", "Number of reconciliations, by result.", ["result"])
RECONCILE_SECONDS = Histogram("promptintern_reconcile_seconds", "Duration of a reconciliation.")
QUEUE_SECONDS = Histogram(
    "promptintern_queue_wait_seconds", "Time that a job waits in the workqueue before it is reconciled."
)
QUEUE_DEPTH = Gauge("promptintern_queue_depth", "Number of jobs that wait in the workqueue.")
START_SECONDS = Histogram(
    "promptintern_first_ray_job_seconds", "Time from the acceptance of a job to the creation of its first RayJob."
)
API_REQUESTS = Counter(
    "promptintern_api_requests", "Number of requests to the API server, without watches.", ["verb", "code"]
)
SKIPPED_OBJECTS = Counter(
    "promptintern_skipped_objects",
    "Number of watched objects that could not be read and were skipped, by kind.",
    ["kind"],
)
LEADING = Gauge("promptintern_leader", "1 while this replica is the leader, else 0.")
WATCH_SILENCE = Gauge(
    "promptintern_watch_silence_seconds", "Time since the last activity of the watch that has been silent longest."
)

for _reason in FAILURE_REASONS:
    ATTEMPT_FAILURES.labels(reason=_reason)
for _result in ("done", "denied", "outdated", "unreadable", "failed"):
    RECONCILES.labels(result=_result)
for _kind in (PLURAL, "rayjobs", "pods", "jobs", "workloads"):
    SKIPPED_OBJECTS.labels(kind=_kind)
