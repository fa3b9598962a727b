"""The RayJob of one attempt: a head pod that runs only the driver, and one pod for each worker."""

from promptintern_api.contract import (
    ANNOTATION_RUN_FORMAT,
    ENV_POD_FOLDER,
    ENV_RAY_JOB,
    ENV_RAY_VERSION,
    HEAD_CONTAINER,
    LABEL_ATTEMPT,
    LABEL_QUEUE,
    LOGS_CONTAINER,
    RUN_FORMAT,
    WORKER_CONTAINER,
    PodRole,
)

from promptintern_operator.manifests.config import JOB_PATH, ResolvedJob, job_digest
from promptintern_operator.manifests.meta import Manifest, metadata, queue_labels
from promptintern_operator.manifests.pods import (
    container,
    container_size,
    cores,
    cpu_placement,
    pod_metadata,
    pod_spec,
    scheduler,
    worker_placement,
)
from promptintern_operator.plan.attempts import ray_job_name
from promptintern_operator.settings import Settings

_OBJECT_STORE_BYTES = 128 * 2**20
"""The size of Ray's object store in bytes. The trainer passes no data through the store, so Ray's default of 30 % of
the memory would be wasted.
"""
_SHIPPER: Manifest = {"cpu": "100m", "memory": "384Mi"}
_SHIPPER_SCRATCH: Manifest = {"ephemeral-storage": "64Mi"}
_GROUP = "workers"
_DASHBOARD_PORT, _AGENT_PORT = 8265, 52365
_POD_FOLDER = "/tmp/promptintern"
"""The folder through which the preStop hook and the trainer of a pod communicate."""


def ray_job(job: ResolvedJob, settings: Settings, *, number: int) -> Manifest:
    """Return the RayJob of attempt ``number``. Its spec is never updated: after creation, Kueue owns ``suspend``."""
    copied = queue_labels(job.metadata.labels)
    name = ray_job_name(job.metadata.name, number)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata(job, name, more_labels=copied | {LABEL_ATTEMPT: str(number)})
        | {"annotations": {ANNOTATION_RUN_FORMAT: RUN_FORMAT}},
        "spec": {
            "entrypoint": f"promptintern pod drive {JOB_PATH} --sha256 {job_digest(job)}",
            "submissionMode": "HTTPMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 0,
            "backoffLimit": 0,
            "suspend": LABEL_QUEUE in copied,
            "rayClusterSpec": {
                "rayVersion": job.spec.compute.ray_version,
                "enableInTreeAutoscaling": False,
                "authOptions": {"mode": "token"},
                "headGroupSpec": _head(job, settings, name),
                "workerGroupSpecs": [_workers(job, settings, name)],
            },
        },
    }


def _head(job: ResolvedJob, settings: Settings, name: str) -> Manifest:
    compute = job.spec.compute
    grace = compute.termination_grace_period_seconds
    ray = container(
        job,
        settings,
        name=HEAD_CONTAINER,
        size=container_size(compute.head_resources, settings.head_size),
        token=True,
        env=_ray_environment(job, name) | {"RAY_JOB_STOP_WAIT_TIME_S": str(grace)},
        ports=[
            {"name": "gcs-server", "containerPort": 6379},
            {"name": "dashboard", "containerPort": _DASHBOARD_PORT},
            {"name": "client", "containerPort": 10001},
        ],
        lifecycle=_save_hook(PodRole.HEAD, grace),
        readinessProbe=_readiness(
            f"localhost:{_AGENT_PORT}/api/local_raylet_healthz",
            f"{_loopback(settings)}:{_DASHBOARD_PORT}/api/gcs_healthz",
        ),
    )
    return {
        "rayStartParams": {
            "num-cpus": "0",
            "num-gpus": "0",
            # The monitor serves only Ray's autoscaler, which is off.
            "no-monitor": "true",
            "dashboard-host": settings.any_address,
            "object-store-memory": str(_OBJECT_STORE_BYTES),
        },
        "template": {
            "metadata": pod_metadata(job, settings, PodRole.HEAD),
            "spec": pod_spec(
                job,
                settings,
                [ray],
                token=True,
                initContainers=[_log_shipper(job, settings, name, PodRole.HEAD)],
                terminationGracePeriodSeconds=grace,
                **cpu_placement(job),
                **scheduler(job, settings),
            ),
        },
    }


def _workers(job: ResolvedJob, settings: Settings, name: str) -> Manifest:
    compute = job.spec.compute
    size = container_size(compute.resources, settings.worker_size)
    gpu = compute.gpu_resource or settings.pods.gpu_resource
    gpus = {gpu: str(compute.gpus_per_worker)} if compute.gpus_per_worker else {}
    processes = max(1, compute.gpus_per_worker)
    grace = compute.termination_grace_period_seconds
    ray = container(
        job,
        settings,
        name=WORKER_CONTAINER,
        size=size | gpus,
        env=_ray_environment(job, name) | {"OMP_NUM_THREADS": str(max(1, cores(size["cpu"]) // processes))},
        lifecycle=_save_hook(PodRole.WORKER, grace),
        readinessProbe=_readiness(f"localhost:{_AGENT_PORT}/api/local_raylet_healthz"),
    )
    return {
        "groupName": _GROUP,
        "replicas": compute.workers,
        "minReplicas": compute.workers,
        "maxReplicas": compute.workers,
        "rayStartParams": {
            # One slot per training process: one for each GPU, or a single one.
            "num-cpus": str(processes),
            # KubeRay derives this number only from resources whose name ends with "gpu".
            "num-gpus": str(compute.gpus_per_worker),
            "object-store-memory": str(_OBJECT_STORE_BYTES),
        },
        "template": {
            "metadata": pod_metadata(job, settings, PodRole.WORKER),
            "spec": pod_spec(
                job,
                settings,
                [ray],
                initContainers=[_log_shipper(job, settings, name, PodRole.WORKER)],
                terminationGracePeriodSeconds=grace,
                **worker_placement(job, settings),
                **scheduler(job, settings),
            ),
        },
    }


def _log_shipper(job: ResolvedJob, settings: Settings, name: str, role: PodRole) -> Manifest:
    """Return the sidecar that uploads logs. As a native sidecar, it ends after Ray, so it sees the whole log."""
    command = ["promptintern", "pod", "ship-logs", JOB_PATH, "--role", role.value, "--sha256", job_digest(job)]
    compute = job.spec.compute
    ray, default = (
        (compute.resources, settings.worker_size)
        if role is PodRole.WORKER
        else (compute.head_resources, settings.head_size)
    )
    # A limit on a container of a pod bounds the whole pod only if every container has one.
    scratch = _SHIPPER_SCRATCH if ray.ephemeral_storage or default.ephemeral_storage else {}
    return container(
        job,
        settings,
        name=LOGS_CONTAINER,
        size=_SHIPPER | scratch,
        env={ENV_RAY_JOB: name},
        restartPolicy="Always",
        command=command,
    )


def _ray_environment(job: ResolvedJob, name: str) -> dict[str, str]:
    return {
        ENV_RAY_JOB: name,
        ENV_RAY_VERSION: job.spec.compute.ray_version or "",
        ENV_POD_FOLDER: _POD_FOLDER,
    }


def _save_hook(role: PodRole, grace: int) -> Manifest:
    command = ["promptintern", "pod", "save", "--role", role.value, "--seconds", str(max(grace - 5, 0))]
    return {"preStop": {"exec": {"command": command}}}


def _loopback(settings: Settings) -> str:
    """Return the address at which a pod reaches its own server at ``any_address``, which serves only one family."""
    return "[::1]" if settings.any_address == "::" else "localhost"


def _readiness(*urls: str) -> Manifest:
    """Return a readiness probe that succeeds once all health endpoints of Ray do.

    It replaces KubeRay's own, which asks the same endpoints every 5 seconds, but not in the first 10 seconds. A job
    waits for the probe of its last pod. As with KubeRay's probe, a pod stays ready until the probe has failed for 50
    seconds.
    """
    checks = " && ".join(f"wget --no-proxy --tries 1 -T 2 -q -O- http://{url} | grep -q success" for url in urls)
    return {
        "exec": {"command": ["bash", "-c", checks]},
        "initialDelaySeconds": 2,
        "periodSeconds": 2,
        "timeoutSeconds": 5,
        "failureThreshold": 25,
    }
