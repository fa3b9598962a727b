"""What all objects of a job have in common: names, labels, the owner."""

from typing import Any

from promptintern_api import PromptInternJob
from promptintern_api.job import GROUP, KIND, VERSION

from promptintern_operator import labels

Manifest = dict[str, Any]


def child_name(job: PromptInternJob) -> str:
    """Name of the job's ServiceAccount, Role, ConfigMap and NetworkPolicy."""
    return f"promptintern-{job.metadata.name}"


def preflight_name(job: PromptInternJob, generation: int, number: int) -> str:
    """Name of the Job that checks one generation of the spec, for the ``number``-th time."""
    return f"{job.metadata.name}-check-{generation}" + (f"-{number}" if number > 1 else "")


def job_labels(job: PromptInternJob) -> dict[str, str]:
    """Labels of all that belongs to ``job``."""
    return {
        labels.MANAGED_BY: labels.OPERATOR,
        labels.JOB: job.metadata.name,
        labels.JOB_UID: uid_of(job),
    }


def metadata(job: PromptInternJob, name: str, *, more_labels: dict[str, str] | None = None) -> Manifest:
    """Metadata of an object that goes away with ``job``."""
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": job_labels(job) | (more_labels or {}),
        "ownerReferences": [
            {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "name": job.metadata.name,
                "uid": uid_of(job),
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def uid_of(job: PromptInternJob) -> str:
    """The API server's name for the job. A job without one was never in a cluster."""
    assert job.metadata.uid is not None
    return job.metadata.uid
