"""The job as its pods read it: with the chart's defaults filled in, in a ConfigMap. It holds no secrets."""

import json
import posixpath

from promptintern_api import PromptInternJob
from promptintern_api.compute import StorageSpec
from promptintern_api.secret_ref import SecretRef

from promptintern_operator.manifests.meta import Manifest, child_name, metadata
from promptintern_operator.settings import Settings

FOLDER = "/etc/promptintern"
FILE = "job.json"
JOB_PATH = f"{FOLDER}/{FILE}"
SCRATCH = "/tmp"
CA_FOLDER = "/etc/promptintern-storage"
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"


def resolve(job: PromptInternJob, settings: Settings) -> PromptInternJob:
    """``job`` with what it leaves to the chart, and without its status.

    An accepted job keeps the storage that it was accepted with, whatever the chart says by now: its checkpoints are
    there, and its author's right to that Secret was checked.
    """
    spec = job.spec
    storage = spec.storage or (job.status.storage if job.status else None)
    if storage is None and (default := settings.default_storage) is not None:
        storage = StorageSpec(
            uri=default.uri,
            endpoint=default.endpoint,
            region=default.region,
            secret_ref=SecretRef(name=default.secret_name) if default.secret_name else None,
        )
    compute = spec.compute.model_copy(
        update={
            "image": spec.compute.image or settings.trainer_image,
            "ray_version": spec.compute.ray_version or settings.ray_version,
        }
    )
    return job.model_copy(
        update={"spec": spec.model_copy(update={"storage": storage, "compute": compute}), "status": None}
    )


def refusals(job: PromptInternJob, settings: Settings) -> list[str]:
    """Why ``job`` cannot run in this cluster, each with its field; more is for the preflight to find."""
    storage, cache = resolve(job, settings).spec.storage, job.spec.compute.model_cache
    if cache is not None and posixpath.normpath(cache.mount_path) in (FOLDER, SCRATCH, CA_FOLDER, TOKEN_FOLDER):
        return ["spec.compute.modelCache.mountPath: is where the pods have something else; give another path"]
    if storage is None:
        return ["spec.storage: is required, since this cluster has no default storage"]
    if storage.uri.startswith("file://") and cache is None:
        return [
            "spec.storage.uri: names a folder of a pod, which is gone with the pod; give an s3:// URI, or a folder "
            "below spec.compute.modelCache.mountPath"
        ]
    return []


def config_map(job: PromptInternJob, settings: Settings) -> Manifest:
    """The resolved job."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(job, child_name(job)),
        "data": {FILE: json.dumps(resolve(job, settings).to_wire(), indent=1, ensure_ascii=False)},
    }
