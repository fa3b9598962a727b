"""The parts that head, worker and preflight pods have in common: security, credentials and volumes."""

import math
from typing import Any

from promptintern_api.contract import LABEL_ROLE, PodRole
from promptintern_api.pods import Resources
from promptintern_api.quantity import parse_quantity

from promptintern_operator.manifests.config import (
    CA_FOLDER,
    FOLDER,
    SCRATCH,
    TOKEN_FOLDER,
    ResolvedJob,
    config_map_name,
)
from promptintern_operator.manifests.environment import CA_KEY, credentials, storage_secret, variables
from promptintern_operator.manifests.meta import Manifest, child_name, job_labels
from promptintern_operator.settings import PodSize, Settings

_TOKEN_SECONDS = 3600
_CACHE, _CONFIG, _TEMPORARY, _TOKEN, _CA = "model-cache", "job", "scratch", "api-token", "storage-ca"

CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod_metadata(job: ResolvedJob, settings: Settings, role: PodRole) -> Manifest:
    """Return the labels and annotations of a pod of ``job`` with ``role``. The operator's own labels prevail."""
    compute, defaults = job.spec.compute, settings.pods
    labels = defaults.labels | (compute.pod_labels or {}) | job_labels(job) | {LABEL_ROLE: role.value}
    annotations = defaults.annotations | (compute.pod_annotations or {})
    return {"labels": labels} | ({"annotations": annotations} if annotations else {})


def pod_spec(
    job: ResolvedJob, settings: Settings, containers: list[Manifest], *, token: bool = False, **more: Any
) -> Manifest:
    """Return the spec of a pod of ``job`` that meets the Pod Security level "restricted".

    Args:
        job: The resolved job.
        settings: The operator's settings.
        containers: The containers of the pod.
        token: Whether to project a short-lived token for the API server into a volume.
        more: Further fields of the spec.
    """
    compute = job.spec.compute
    spec: Manifest = {
        "serviceAccountName": child_name(job),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": _pod_security(settings.pods.run_as_user),
        "containers": containers,
        "volumes": volumes(job, token=token),
    }
    if compute.tolerations:
        spec["tolerations"] = [toleration.to_wire() for toleration in compute.tolerations]
    if compute.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in compute.image_pull_secrets]
    if compute.priority_class_name:
        spec["priorityClassName"] = compute.priority_class_name
    if settings.pods.runtime_class_name:
        spec["runtimeClassName"] = settings.pods.runtime_class_name
    return spec | more


def _pod_security(user: int | None) -> Manifest:
    identity = {} if user is None else {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    return {
        "runAsNonRoot": True,
        **identity,
        "fsGroupChangePolicy": "OnRootMismatch",  # a model cache may hold terabytes
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def scheduler(job: ResolvedJob, settings: Settings) -> Manifest:
    """Return the scheduler of the pods of a Ray cluster, as a field of a pod's spec."""
    name = job.spec.compute.scheduler_name or settings.pods.scheduler_name
    return {"schedulerName": name} if name else {}


def worker_placement(job: ResolvedJob, settings: Settings) -> Manifest:
    """Return the placement and the RuntimeClass of workers, as fields of a pod's spec."""
    compute = job.spec.compute
    fields: Manifest = {}
    runtime = compute.runtime_class_name or (settings.pods.gpu_runtime_class_name if compute.gpus_per_worker else None)
    if runtime:
        fields["runtimeClassName"] = runtime
    if compute.node_selector:
        fields["nodeSelector"] = dict(compute.node_selector)
    if compute.affinity:
        fields["affinity"] = compute.affinity.to_wire()
    return fields


def cpu_placement(job: ResolvedJob) -> Manifest:
    """Return the placement that the user chose for the head and the check, as fields of a pod's spec."""
    selector = job.spec.compute.head_node_selector
    return {"nodeSelector": dict(selector)} if selector else {}


def container(
    job: ResolvedJob,
    settings: Settings,
    *,
    name: str,
    size: Manifest,
    token: bool = False,
    env: dict[str, str] | None = None,
    **more: Any,
) -> Manifest:
    """Return a container that runs the trainer's image with the job, scratch space and the job's credentials."""
    return {
        "name": name,
        "image": job.spec.compute.image,
        "imagePullPolicy": settings.image_pull_policy,
        "securityContext": dict(CONTAINER_SECURITY),
        "resources": {"requests": dict(size), "limits": _limits(size, settings)},
        "env": [*variables(job, settings, env), *credentials(job)],
        "volumeMounts": mounts(job, token=token),
        # KubeRay deletes a pod that failed, so the end of its log must be in its state by then.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    } | more


def _limits(size: Manifest, settings: Settings) -> Manifest:
    """Return the limits for ``size``: all of it, except that a container may use CPU that nobody has requested."""
    return {name: amount for name, amount in size.items() if name != "cpu" or settings.pods.cpu_limits}


def volumes(job: ResolvedJob, *, token: bool) -> list[Manifest]:
    """Return the volumes: the job's ConfigMap, scratch space, the storage's CA certificate, the cache and the token."""
    specs: list[Manifest] = [
        {"name": _CONFIG, "configMap": {"name": config_map_name(job)}},
        {"name": _TEMPORARY, "emptyDir": {}},
    ]
    secret = storage_secret(job)
    if secret is not None:  # only this key; the volume is empty if the Secret lacks it
        items = [{"key": CA_KEY, "path": CA_KEY}]
        specs.append({"name": _CA, "secret": {"secretName": secret, "items": items, "optional": True}})
    cache = job.spec.compute.model_cache
    if cache is not None:
        claim = {"claimName": cache.claim_name, "readOnly": cache.read_only}
        specs.append({"name": _CACHE, "persistentVolumeClaim": claim})
    if token:
        sources: list[Manifest] = [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_SECONDS}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]
        specs.append({"name": _TOKEN, "projected": {"sources": sources}})
    return specs


def mounts(job: ResolvedJob, *, token: bool) -> list[Manifest]:
    """Return the volume mounts of a container."""
    specs: list[Manifest] = [
        {"name": _CONFIG, "mountPath": FOLDER, "readOnly": True},
        {"name": _TEMPORARY, "mountPath": SCRATCH},
    ]
    if storage_secret(job):
        specs.append({"name": _CA, "mountPath": CA_FOLDER, "readOnly": True})
    cache = job.spec.compute.model_cache
    if cache is not None:
        specs.append({"name": _CACHE, "mountPath": cache.mount_path, "readOnly": cache.read_only})
    if token:
        specs.append({"name": _TOKEN, "mountPath": TOKEN_FOLDER, "readOnly": True})
    return specs


def container_size(resources: Resources, default: PodSize) -> Manifest:
    """Return the CPU, memory and scratch space of a container, with ``default`` for values that are left out."""
    size: Manifest = {"cpu": resources.cpu or default.cpu, "memory": resources.memory or default.memory}
    scratch = resources.ephemeral_storage or default.ephemeral_storage
    return size | ({"ephemeral-storage": scratch} if scratch else {})


def cores(cpu: str) -> int:
    """Return the number of cores in a CPU quantity, rounded up to a whole number of at least 1."""
    return max(1, math.ceil(parse_quantity(cpu)))
