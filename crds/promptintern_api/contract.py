"""The names and values, besides the job itself, that the operator, the trainer and the command line share.

``tests/unit/api/test_contract.py`` compares this module with the chart, the images and the documentation, which repeat
some of the names.
"""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Final

RUN_FORMAT: Final = "2.1"
"""The version of the format in which a run stores its files. A run of another version is refused, and the operator ends
an attempt whose RayJob was created for another version.
"""


class ExitCode(IntEnum):
    """An exit code of ``promptintern``, from which the operator learns why an attempt ended."""

    DONE = 0
    FAILED = 1
    """The run failed, or its gate stopped it."""
    USER_ERROR = 2
    """The job or its data is wrong; the same command would fail again."""
    INFRASTRUCTURE = 75
    """Storage or workers were lost (``EX_TEMPFAIL`` of BSD's sysexits); the same command may succeed."""
    INTERRUPTED = 130
    """SIGINT arrived, and the run was saved."""
    TERMINATED = 143
    """SIGTERM arrived, and the run was saved."""


# Environment variables of the trainer's containers

ENV_JOB: Final = "PROMPTINTERN_JOB"
"""The variable with the name of the job to which the process's pod belongs; messages then address the job's author."""
ENV_RAY_JOB: Final = "PROMPTINTERN_RAY_JOB"
"""The variable with the name of the RayJob in whose cluster the process runs."""
ENV_RAY_VERSION: Final = "PROMPTINTERN_RAY_VERSION"
"""The variable with the Ray version that the job requests; the driver compares it with the version in the image."""
ENV_POD_FOLDER: Final = "PROMPTINTERN_POD_FOLDER"
"""The variable with the folder through which the preStop hook and the trainer of a pod communicate."""
ENV_STORAGE_CA: Final = "PROMPTINTERN_STORAGE_CA"
"""The variable with the path of the storage's CA certificate, which is used only if the file exists."""
ENV_STORAGE_DEADLINE: Final = "PROMPTINTERN_STORAGE_DEADLINE_SECONDS"
"""The variable with the number of seconds for which requests to a storage that does not answer are retried."""

OPERATOR_ENV_PREFIX: Final = "PROMPTINTERN_"
"""The prefix of the environment variables with the operator's own settings."""

# Labels and annotations

LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
OPERATOR: Final = "promptintern-operator"
"""The value of ``LABEL_MANAGED_BY`` on every object that the operator creates, and the operator's field manager."""
OPERATOR_SELECTOR: Final = f"{LABEL_MANAGED_BY}={OPERATOR}"
LABEL_JOB: Final = "promptintern.dev/job"
LABEL_JOB_UID: Final = "promptintern.dev/job-uid"
LABEL_ROLE: Final = "promptintern.dev/role"
"""The label with the ``PodRole`` of a pod."""
LABEL_ATTEMPT: Final = "promptintern.dev/attempt"
ANNOTATION_GENERATION: Final = "promptintern.dev/generation"
"""The annotation with the generation of the spec that a preflight checks."""
ANNOTATION_TRY: Final = "promptintern.dev/try"
"""The annotation with the number of a preflight among the preflights of one generation, counted from 1."""
ANNOTATION_RUN_FORMAT: Final = "promptintern.dev/run-format"
"""The annotation with the ``RUN_FORMAT`` of the operator that created a RayJob."""
ANNOTATION_RETRY: Final = "promptintern.dev/retry"
"""The annotation with which a user requests that a refused job is checked again, or a failed job is tried again. Every
new value is a new request.
"""
RETRY_CHARACTERS: Final = 128
"""The number of characters of this annotation that count."""


def retry_request(annotations: Mapping[str, str] | None) -> str:
    """Return the part of ``ANNOTATION_RETRY`` that counts, or "" if no retry was ever requested."""
    return (annotations or {}).get(ANNOTATION_RETRY, "")[:RETRY_CHARACTERS]


LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
LABEL_PRIORITY: Final = "kueue.x-k8s.io/priority-class"

TRAINER_FIELD_MANAGER: Final = "promptintern-trainer"
"""The field manager of ``status.training``."""

# Objects of a job


def dependent_name(job: str) -> str:
    """Return the name of the ServiceAccount, Role, RoleBinding and NetworkPolicy of the job ``job``."""
    return f"promptintern-{job}"


class PodRole(StrEnum):
    """The role of a pod of a job, which is the value of ``LABEL_ROLE``."""

    HEAD = "head"
    """The head pod of an attempt's Ray cluster."""
    WORKER = "worker"
    """A worker pod of an attempt's Ray cluster."""
    PREFLIGHT = "preflight"
    """The pod that checks the job before its first attempt."""


HEAD_CONTAINER: Final = "ray-head"
"""The container of a head pod that runs Ray and the driver."""
WORKER_CONTAINER: Final = "ray-worker"
"""The container of a worker pod that runs Ray and the training process."""
LOGS_CONTAINER: Final = "logs"
"""The native sidecar of head and worker pods that uploads their logs. It is restarted whenever it ends."""
CHECK_CONTAINER: Final = "check"
"""The container of a preflight's pod."""
RAY_LOGS: Final = "/tmp/ray/session_latest/logs"
"""The folder, in a pod of a Ray cluster, with Ray's logs of the current session."""
DRIVER_LOG_PREFIX: Final = "job-driver-"
"""The prefix that Ray gives to the names of the driver's log files in ``RAY_LOGS``."""


# Files of a run, below its folder in the storage

JOB_FILE: Final = "job.json"
"""The file with the job and the digests of its data. The ConfigMap of a job holds the resolved job under the same name.
"""
MODEL_FILE: Final = "model.json"
MANIFEST_FILE: Final = "manifest.json"
"""The commit record of a folder, which is written after all other files of the folder."""
ADAPTER_FOLDER: Final = "adapter"
PROMPT_FILE: Final = "promptintern.json"
"""The file in ``ADAPTER_FOLDER`` with the prompt that the adapter expects."""
REPORT_FOLDER: Final = "report"
REPORT_HTML: Final = "report.html"
REPORT_JSON: Final = "report.json"
REPORT_MARKDOWN: Final = "report.md"
LOGS_FOLDER: Final = "logs"
