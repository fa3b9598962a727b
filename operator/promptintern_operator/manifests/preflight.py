"""The preflight: a CPU-only Job that runs `promptintern validate` with the job's own credentials."""

from promptintern_api import PromptInternJob

from promptintern_operator import labels
from promptintern_operator.manifests.config import JOB_PATH, resolve
from promptintern_operator.manifests.meta import Manifest, metadata, preflight_name
from promptintern_operator.manifests.pods import container, cpu_placement, pod_labels, pod_spec
from promptintern_operator.settings import Settings

_FINDINGS = "/dev/termination-log"
_REFUSED = 2
"""Exit code of `promptintern validate` for a job that is wrong; another try would find the same."""
_TRIES, _SECONDS = 3, 3600


def preflight_job(job: PromptInternJob, settings: Settings, *, generation: int, number: int = 1) -> Manifest:
    """Return the ``number``-th Job that checks ``generation`` of the spec."""
    job = resolve(job, settings)
    copied = labels.for_kueue(job.metadata.labels) if settings.checks_in_queue else {}
    meta = metadata(job, preflight_name(job, generation, number), more_labels=copied | {labels.ROLE: "preflight"})
    size = {"cpu": settings.preflight_size.cpu, "memory": settings.preflight_size.memory}
    check = container(
        job,
        settings,
        name="check",
        size=size,
        command=["promptintern", "validate", JOB_PATH, "--findings", _FINDINGS],
        terminationMessagePath=_FINDINGS,
        terminationMessagePolicy="FallbackToLogsOnError",
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta | {"annotations": {labels.GENERATION: str(generation), labels.TRY: str(number)}},
        "spec": {
            "backoffLimit": _TRIES - 1,
            "activeDeadlineSeconds": _SECONDS,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "check", "operator": "In", "values": [_REFUSED]},
                    },
                    # A pod that the cluster removes is recreated, and does not count as a failed try.
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                ]
            },
            "template": {
                "metadata": {"labels": pod_labels(job, "preflight")},
                "spec": pod_spec(job, [check], **cpu_placement(job)),
            },
        },
    }
