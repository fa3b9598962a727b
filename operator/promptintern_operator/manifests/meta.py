"""The metadata that all objects of a job share: names, labels and the owner."""

from collections.abc import Mapping
from typing import Any

from promptintern_api import PromptInternJob
from promptintern_api.contract import (
    LABEL_JOB,
    LABEL_JOB_UID,
    LABEL_MANAGED_BY,
    LABEL_PRIORITY,
    LABEL_QUEUE,
    OPERATOR,
    dependent_name,
)
from promptintern_api.kind import GROUP, KIND, VERSION

Manifest = dict[str, Any]

_BATCH = ("ray.io/gang-scheduling-enabled", "ray.io/priority-class-name", "ray.io/scheduler-name")
_SCHEDULERS = ("volcano.sh/", "yunikorn.apache.org/", "kai.scheduler/")
"""The labels from which KubeRay's support for batch schedulers takes a queue and a priority, and their beginnings."""


def child_name(job: PromptInternJob) -> str:
    """Return the name of the job's ServiceAccount, Role, RoleBinding and NetworkPolicy."""
    return dependent_name(job.metadata.name)


def preflight_name(job: PromptInternJob, generation: int, number: int) -> str:
    """Return the name of the ``number``-th Job that checks one generation of the spec."""
    return f"{job.metadata.name}-check-{generation}" + (f"-{number}" if number > 1 else "")


def job_labels(job: PromptInternJob) -> dict[str, str]:
    """Return the labels of all objects that belong to ``job``."""
    return {
        LABEL_MANAGED_BY: OPERATOR,
        LABEL_JOB: job.metadata.name,
        LABEL_JOB_UID: uid_of(job),
    }


def metadata(job: PromptInternJob, name: str, *, more_labels: dict[str, str] | None = None) -> Manifest:
    """Return the metadata of an object that is deleted together with ``job``."""
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
    """Return the uid of a job; every job in a cluster has a uid."""
    assert job.metadata.uid is not None
    return job.metadata.uid


def kueue_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the subset of a job's ``labels`` that Kueue reads from the job's RayJobs and preflights."""
    return {name: labels[name] for name in (LABEL_QUEUE, LABEL_PRIORITY) if name in labels}


def queue_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the subset of a job's ``labels`` that Kueue and KubeRay's batch schedulers read from a RayJob."""
    scheduling = {name: value for name, value in labels.items() if name in _BATCH or name.startswith(_SCHEDULERS)}
    return scheduling | kueue_labels(labels)
