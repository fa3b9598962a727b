"""What the operator, the trainer and the command line agree on beside the job itself; each name is spelled here once.

Whatever is spelled again elsewhere (the chart, the images, the documentation) is compared with this module by
``tests/unit/api/test_contract.py``.
"""

from enum import IntEnum
from typing import Final

RUN_FORMAT: Final = "2.0"
"""Version of the files that a run stores. A run of another version is refused, and the operator ends an attempt whose
RayJob was created for another one."""


class ExitCode(IntEnum):
    """Exit codes of ``promptintern``. The operator reads them as the cause of an attempt's end."""

    DONE = 0
    FAILED = 1
    """The run failed, or its gate stopped it."""
    USER_ERROR = 2
    """The job or its data is wrong; the same command fails again."""
    INFRASTRUCTURE = 75
    """Storage or workers were lost (``EX_TEMPFAIL`` of BSD's sysexits); the same command may succeed."""
    INTERRUPTED = 130
    """SIGINT arrived, and the run was saved."""
    TERMINATED = 143
    """SIGTERM arrived, and the run was saved."""


# Environment variables of the trainer's containers

ENV_RAY_JOB: Final = "PROMPTINTERN_RAY_JOB"
"""Name of the RayJob whose cluster the process runs in."""
ENV_RAY_VERSION: Final = "PROMPTINTERN_RAY_VERSION"
"""Ray's version that the job asks for; the driver compares it with the image's."""
ENV_POD_FOLDER: Final = "PROMPTINTERN_POD_FOLDER"
"""Folder through which a pod's preStop hook and its trainer talk."""
ENV_STORAGE_CA: Final = "PROMPTINTERN_STORAGE_CA"
"""File with the certificate authority of the storage; used only if the file exists."""
ENV_STORAGE_DEADLINE: Final = "PROMPTINTERN_STORAGE_DEADLINE_SECONDS"
"""Seconds for which a storage that does not answer is asked again."""

OPERATOR_ENV_PREFIX: Final = "PROMPTINTERN_"
"""Prefix of the operator's own settings."""

# Labels and annotations

LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
OPERATOR: Final = "promptintern-operator"
"""Value of ``LABEL_MANAGED_BY`` on every object that the operator makes, and the operator's field manager."""
OPERATOR_SELECTOR: Final = f"{LABEL_MANAGED_BY}={OPERATOR}"
LABEL_JOB: Final = "promptintern.dev/job"
LABEL_JOB_UID: Final = "promptintern.dev/job-uid"
LABEL_ROLE: Final = "promptintern.dev/role"
"""``head``, ``worker`` or ``preflight``."""
LABEL_ATTEMPT: Final = "promptintern.dev/attempt"
ANNOTATION_GENERATION: Final = "promptintern.dev/generation"
"""The generation of the spec that a preflight checks."""
ANNOTATION_TRY: Final = "promptintern.dev/try"
"""The number of a preflight among those of its generation, from 1."""
ANNOTATION_RUN_FORMAT: Final = "promptintern.dev/run-format"
"""``RUN_FORMAT`` of the operator that created a RayJob."""
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
LABEL_PRIORITY: Final = "kueue.x-k8s.io/priority-class"

TRAINER_FIELD_MANAGER: Final = "promptintern-trainer"
"""Field manager of ``status.training``."""

# Objects of a job


def dependent_name(job: str) -> str:
    """Name of the ServiceAccount, Role, RoleBinding, ConfigMap and NetworkPolicy of the job named ``job``."""
    return f"promptintern-{job}"


# Files of a run, below its folder in the storage

JOB_FILE: Final = "job.json"
"""The job and the digests of its data. The key of a job's ConfigMap, too, which holds the resolved job."""
MODEL_FILE: Final = "model.json"
MANIFEST_FILE: Final = "manifest.json"
"""Written last in whatever is committed."""
ADAPTER_FOLDER: Final = "adapter"
PROMPT_FILE: Final = "promptintern.json"
"""In ``ADAPTER_FOLDER``: the prompt that the adapter expects."""
REPORT_FOLDER: Final = "report"
REPORT_HTML: Final = "report.html"
REPORT_JSON: Final = "report.json"
LOGS_FOLDER: Final = "logs"
