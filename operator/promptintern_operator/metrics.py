"""What Prometheus may ask."""

from prometheus_client import Counter, Gauge, Histogram

JOBS_BY_PHASE = Gauge("promptintern_jobs", "PromptInternJobs by phase.", ["phase"])
ATTEMPTS = Counter("promptintern_attempts_ended", "Attempts that ended, by outcome.", ["outcome"])
STAGE_SECONDS = Histogram(
    "promptintern_stage_seconds",
    "Duration of finished stages.",
    ["stage"],
    buckets=(10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400),
)
RECONCILES = Counter("promptintern_reconciles", "Reconciliations, by result.", ["result"])
RECONCILE_SECONDS = Histogram("promptintern_reconcile_seconds", "Duration of a reconciliation.")
QUEUE_SECONDS = Histogram("promptintern_queue_wait_seconds", "Time between a change and its reconciliation.")
QUEUE_DEPTH = Gauge("promptintern_queue_depth", "Jobs that wait for reconciliation.")
START_SECONDS = Histogram("promptintern_first_ray_job_seconds", "Time from a job's acceptance to its first RayJob.")
API_REQUESTS = Counter("promptintern_api_requests", "Requests to the API server, watches apart.", ["verb", "code"])
LEADING = Gauge("promptintern_leader", "1 while this replica leads.")
WATCH_SILENCE = Gauge("promptintern_watch_silence_seconds", "Time since the quietest watch was last heard.")
