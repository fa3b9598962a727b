"""The driver in the head pod, which runs a job like `promptintern run` and also writes progress to the job's status."""

import os
from collections.abc import Callable
from functools import partial

from promptintern_api import PromptInternJob
from promptintern_api.contract import ENV_RAY_JOB, ENV_RAY_VERSION

from promptintern.errors import InfrastructureFailed, RunFailed, UserError
from promptintern.leaving import register_process
from promptintern.pipeline.events import Observer
from promptintern.pod.progress import TrainingProgress
from promptintern.pod.status import StatusObserver, StatusWriter, patch_of
from promptintern.report.schema import Report
from promptintern.run.driver import open_run, run_job

RAY_AUTHENTICATION = "RAY_AUTH_MODE"
"""The environment variable that KubeRay sets if it supports the RayCluster field ``authOptions``, which the
operator sets."""


def drive(job: PromptInternJob, observer: Observer) -> tuple[Report, str]:
    """Run or continue ``job`` in the Ray cluster of this pod. Return the report and the URI of the run.

    Raises:
        UserError: if the job, its data or its model is wrong.
        InfrastructureFailed: if another attempt may succeed.
        RunFailed: if the run failed for another reason.
        Stopped: if the run saved and stopped on request.
    """
    assert job.spec.storage is not None, "the operator sets the storage of a resolved job"
    storage_uri = job.spec.storage.uri
    uri = open_run(job, storage_uri).store.uri
    progress = TrainingProgress(run_uri=uri)
    writer = StatusWriter(progress, patch_of(job))
    last_update: Callable[[TrainingProgress], None] | None = None
    ray_job = os.environ.get(ENV_RAY_JOB)
    # The driver stays registered until it has written the last status. The preStop hook waits until then, and
    # afterwards gives KubeRay time to read the exit code.
    with register_process("driver"):
        try:
            _check_ray()
            report = run_job(
                job,
                storage_uri=storage_uri,
                workers=job.spec.compute.workers,
                observer=StatusObserver(observer, writer),
            )
            last_update = partial(TrainingProgress.succeed, report=report)
        except UserError as error:
            last_update = partial(TrainingProgress.fail, who="User", message=str(error), ray_job=ray_job)
            raise
        except InfrastructureFailed as error:
            last_update = partial(TrainingProgress.fail, who="Infrastructure", message=str(error), ray_job=ray_job)
            raise
        except RunFailed as error:
            last_update = partial(TrainingProgress.fail, who="Application", message=str(error), ray_job=ray_job)
            raise
        finally:
            writer.close(last_update)
    return report, uri


def _check_ray() -> None:
    """Check that the image has the Ray version that the spec names, and that the Ray cluster requires a token.

    Raises:
        UserError: if the image has another Ray version.
        InfrastructureFailed: if the Ray cluster requires no token, so that anybody in its network could run code in it.
    """
    import ray

    version = os.environ.get(ENV_RAY_VERSION)
    if version and version != ray.__version__:
        raise UserError.at(
            "spec.compute.rayVersion", f"is {version}, but the image has Ray {ray.__version__}; make them the same"
        )
    if os.environ.get(ENV_RAY_JOB) and os.environ.get(RAY_AUTHENTICATION) != "token":
        raise InfrastructureFailed(
            "KubeRay gave this Ray cluster no token, so anybody in its network could run code in it; upgrade to "
            "KubeRay 1.5 or newer, both its operator and its CustomResourceDefinitions"
        )
