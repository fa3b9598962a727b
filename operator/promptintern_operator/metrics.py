"""The metrics that the operator exposes to Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

JOBS_BY_PHASE = Gauge("promptintern_jobs", "Number of PromptInternJobs, by phase.", ["phase"])
ATTEMPTS = Counter("promptintern_attempts_ended", "Number of attempts that have ended, by outcome.", ["outcome"])
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
