"""The parts that head, worker and preflight pods have in common: security, credentials and volumes."""

import math
from typing import Any

from promptintern_api.compute import Resources
from promptintern_api.contract import ENV_JOB, ENV_STORAGE_CA, LABEL_ROLE, PodRole
from promptintern_api.quantity import parse_quantity

from promptintern_operator.manifests.config import (
    CA_FOLDER,
    FOLDER,
    SCRATCH,
    TOKEN_FOLDER,
    ResolvedJob,
    config_map_name,
)
from promptintern_operator.manifests.meta import Manifest, child_name, job_labels
from promptintern_operator.settings import PodSize, Settings

_USER = 1000
_TOKEN_SECONDS = 3600
_CACHE, _CONFIG, _TEMPORARY, _TOKEN, _CA = "model-cache", "job", "scratch", "api-token", "storage-ca"
_CA_KEY = "ca.crt"
"""The key of the CA certificate in the storage's Secret, as in Secrets of type kubernetes.io/tls."""

CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod_labels(job: ResolvedJob, role: PodRole) -> dict[str, str]:
    """Return the labels of a pod of ``job`` with ``role``."""
    return job_labels(job) | {LABEL_ROLE: role.value}


def pod_spec(job: ResolvedJob, containers: list[Manifest], *, token: bool = False, **more: Any) -> Manifest:
    """Return the spec of a pod of ``job`` that meets the Pod Security level "restricted".

    Args:
        job: The resolved job.
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
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",  # a model cache may hold terabytes
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": containers,
        "volumes": volumes(job, token=token),
    }
    if compute.tolerations:
        spec["tolerations"] = [toleration.to_wire() for toleration in compute.tolerations]
    if compute.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in compute.image_pull_secrets]
    if compute.priority_class_name:
        spec["priorityClassName"] = compute.priority_class_name
    return spec | more


def worker_placement(job: ResolvedJob) -> Manifest:
    """Return the placement that the user chose for workers, as fields of a pod's spec."""
    compute = job.spec.compute
    fields: Manifest = {}
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
        # A container that exceeds its memory request may be killed; one that exceeds its CPU request is only throttled.
        "resources": {"requests": dict(size), "limits": {k: v for k, v in size.items() if k != "cpu"}},
        "env": [*({"name": key, "value": value} for key, value in environment(job, env).items()), *credentials(job)],
        "volumeMounts": mounts(job, token=token),
        # KubeRay deletes a pod that failed, so the end of its log must be in its state by then.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    } | more


def environment(job: ResolvedJob, more: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment variables that every container has, together with ``more``."""
    cache = job.spec.compute.model_cache
    writable = cache is not None and not cache.read_only
    authority = {ENV_STORAGE_CA: f"{CA_FOLDER}/{_CA_KEY}"} if _storage_secret(job) else {}
    return (
        {
            "HOME": f"{SCRATCH}/home",
            "HF_HOME": cache.mount_path if cache is not None and writable else f"{SCRATCH}/huggingface",
            "PYTHONUNBUFFERED": "1",
            ENV_JOB: job.metadata.name,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        | authority
        | (more or {})
    )


def _storage_secret(job: ResolvedJob) -> str | None:
    storage = job.spec.storage
    return storage.secret_ref.name if storage is not None and storage.secret_ref is not None else None


def credentials(job: ResolvedJob) -> list[Manifest]:
    """Return the environment variables from the Secrets of the job, whose values the operator never sees."""
    variables: list[Manifest] = []
    secret, model = _storage_secret(job), job.spec.model
    if secret is not None:
        for key, optional in (
            ("AWS_ACCESS_KEY_ID", False),
            ("AWS_SECRET_ACCESS_KEY", False),
            ("AWS_SESSION_TOKEN", True),
        ):
            variables.append(_from_secret(key, secret, key, optional=optional))
    if model.secret_ref is not None:
        variables.append(_from_secret("HF_TOKEN", model.secret_ref.name, "token"))
    return variables


def _from_secret(variable: str, secret: str, key: str, *, optional: bool = False) -> Manifest:
    source: Manifest = {"name": secret, "key": key} | ({"optional": True} if optional else {})
    return {"name": variable, "valueFrom": {"secretKeyRef": source}}


def volumes(job: ResolvedJob, *, token: bool) -> list[Manifest]:
    """Return the volumes: the job's ConfigMap, scratch space, the storage's CA certificate, the cache and the token."""
    specs: list[Manifest] = [
        {"name": _CONFIG, "configMap": {"name": config_map_name(job)}},
        {"name": _TEMPORARY, "emptyDir": {}},
    ]
    secret = _storage_secret(job)
    if secret is not None:  # only this key; the volume is empty if the Secret lacks it
        items = [{"key": _CA_KEY, "path": _CA_KEY}]
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
    if _storage_secret(job):
        specs.append({"name": _CA, "mountPath": CA_FOLDER, "readOnly": True})
    cache = job.spec.compute.model_cache
    if cache is not None:
        specs.append({"name": _CACHE, "mountPath": cache.mount_path, "readOnly": cache.read_only})
    if token:
        specs.append({"name": _TOKEN, "mountPath": TOKEN_FOLDER, "readOnly": True})
    return specs


def container_size(resources: Resources, default: PodSize, *, gpus: int = 0) -> Manifest:
    """Return the CPU, memory and GPUs of a container, with ``default`` for values that ``resources`` leaves out."""
    size: Manifest = {"cpu": resources.cpu or default.cpu, "memory": resources.memory or default.memory}
    return size | ({"nvidia.com/gpu": str(gpus)} if gpus else {})


def cores(cpu: str) -> int:
    """Return the number of cores in a CPU quantity, rounded up to a whole number of at least 1."""
    return max(1, math.ceil(parse_quantity(cpu)))
