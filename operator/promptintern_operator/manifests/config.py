"""The ConfigMap from which the pods read their job, with the chart's defaults filled in and without secrets."""

import hashlib
import json
from typing import NewType

from promptintern_api import PromptInternJob
from promptintern_api.compute import StorageSpec
from promptintern_api.contract import JOB_FILE
from promptintern_api.job import MUTABLE_SPEC_FIELDS, Metadata
from promptintern_api.secret_ref import SecretRef

from promptintern_operator.manifests.meta import Manifest, child_name, metadata
from promptintern_operator.settings import Settings

FOLDER = "/etc/promptintern"
JOB_PATH = f"{FOLDER}/{JOB_FILE}"
SCRATCH = "/tmp"
CA_FOLDER = "/etc/promptintern-storage"
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
_NAME_DIGITS = 16


ResolvedJob = NewType("ResolvedJob", PromptInternJob)
"""A job with the chart's defaults filled in, from which everything that runs for the job is built."""


def resolve(job: PromptInternJob, settings: Settings) -> ResolvedJob:
    """Return ``job`` with the chart's defaults filled in.

    An accepted job keeps the storage with which it was accepted, even if the chart's default has changed, because the
    checkpoints of the job are there, and its author's right to use the Secret of that storage was checked.
    """
    spec = job.spec
    storage = spec.storage or (job.status.storage if job.status else None)
    if storage is None and (default := settings.default_storage) is not None:
        storage = StorageSpec(
            uri=default.uri,
            endpoint=default.endpoint,
            region=default.region,
            addressing_style=default.addressing_style,
            server_side_encryption=default.server_side_encryption,
            kms_key_id=default.kms_key_id,
            secret_ref=SecretRef(name=default.secret_name) if default.secret_name else None,
        )
    compute = spec.compute.model_copy(
        update={
            "image": spec.compute.image or settings.trainer_image,
            "ray_version": spec.compute.ray_version or settings.ray_version,
        }
    )
    return ResolvedJob(
        job.model_copy(update={"spec": spec.model_copy(update={"storage": storage, "compute": compute})})
    )


def refusals(job: ResolvedJob) -> list[str]:
    """Return why ``job`` cannot run in this cluster, one text for each reason; the preflight finds other reasons."""
    storage, cache = job.spec.storage, job.spec.compute.model_cache
    if storage is None:
        return ["spec.storage: is required, because this cluster has no default storage"]
    if storage.uri.startswith("file://") and cache is None:
        return [
            "spec.storage.uri: names a folder inside a pod, which is lost with the pod; give an s3:// URI, or a folder "
            "below spec.compute.modelCache.mountPath"
        ]
    return []


def job_text(job: ResolvedJob) -> str:
    """Return the job as its pods read it: without its status, its metadata, and the fields that may change any time.

    The text must not depend on labels and annotations, because anybody may change them while a job is checked or runs.
    """
    metadata = Metadata(name=job.metadata.name, namespace=job.metadata.namespace, uid=job.metadata.uid)
    document = job.model_copy(update={"status": None, "metadata": metadata}).to_wire()
    document["spec"] = {name: value for name, value in document["spec"].items() if name not in MUTABLE_SPEC_FIELDS}
    return json.dumps(document, indent=1, ensure_ascii=False)


def job_digest(job: ResolvedJob) -> str:
    """Return the SHA-256 of ``job_text``, which the pods verify, because others may be able to replace a ConfigMap."""
    return hashlib.sha256(job_text(job).encode()).hexdigest()


def config_map_name(job: ResolvedJob) -> str:
    """Return the name of the job's ConfigMap, which depends on its content."""
    return f"{child_name(job)}-{job_digest(job)[:_NAME_DIGITS]}"


def config_map(job: ResolvedJob) -> Manifest:
    """Return the immutable ConfigMap that holds the job for its pods."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(job, config_map_name(job)),
        "immutable": True,
        "data": {JOB_FILE: job_text(job)},
    }
