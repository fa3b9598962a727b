"""The preflight: a CPU-only Job that runs `promptintern validate` with the job's own credentials."""

from promptintern_api.contract import (
    ANNOTATION_GENERATION,
    ANNOTATION_TRY,
    CHECK_CONTAINER,
    LABEL_ROLE,
    ExitCode,
    PodRole,
)
from promptintern_api.pods import Resources

from promptintern_operator.manifests.config import JOB_PATH, ResolvedJob, job_digest
from promptintern_operator.manifests.meta import Manifest, kueue_labels, metadata, preflight_name
from promptintern_operator.manifests.pods import container, container_size, cpu_placement, pod_metadata, pod_spec
from promptintern_operator.settings import Settings

_FINDINGS = "/dev/termination-log"
_TRIES, _SECONDS = 3, 3600


def preflight_job(job: ResolvedJob, settings: Settings, *, generation: int, number: int = 1) -> Manifest:
    """Return the ``number``-th Job that checks ``generation`` of the spec."""
    copied = kueue_labels(job.metadata.labels) if settings.checks_in_queue else {}
    meta = metadata(
        job, preflight_name(job, generation, number), more_labels=copied | {LABEL_ROLE: PodRole.PREFLIGHT.value}
    )
    check = container(
        job,
        settings,
        name=CHECK_CONTAINER,
        size=container_size(Resources(), settings.preflight_size),
        command=["promptintern", "validate", JOB_PATH, "--sha256", job_digest(job), "--findings", _FINDINGS],
        terminationMessagePath=_FINDINGS,
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta | {"annotations": {ANNOTATION_GENERATION: str(generation), ANNOTATION_TRY: str(number)}},
        "spec": {
            "backoffLimit": _TRIES - 1,
            "activeDeadlineSeconds": _SECONDS,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": CHECK_CONTAINER,
                            "operator": "In",
                            "values": [int(ExitCode.USER_ERROR)],
                        },
                    },
                    # A pod that the cluster removes is recreated, and does not count as a failed try.
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                ]
            },
            "template": {
                "metadata": pod_metadata(job, settings, PodRole.PREFLIGHT),
                "spec": pod_spec(job, settings, [check], **cpu_placement(job)),
            },
        },
    }
