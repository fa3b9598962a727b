"""The driver in the head pod: `promptintern run`, which also says how training goes."""

import os
from collections.abc import Callable
from functools import partial

from promptintern_api import PromptInternJob
from promptintern_api.contract import ENV_RAY_JOB, ENV_RAY_VERSION

from promptintern.errors import InfrastructureFailed, RunFailed, UserError
from promptintern.leaving import present
from promptintern.pipeline.events import Observer
from promptintern.pod.progress import TrainingProgress
from promptintern.pod.status import StatusObserver, StatusWriter, patch_of
from promptintern.report.schema import Report
from promptintern.run.driver import open_run, run_job

RAY_AUTHENTICATION = "RAY_AUTH_MODE"
"""KubeRay sets it for a cluster whose authOptions it knows."""


def drive(job: PromptInternJob, observer: Observer) -> tuple[Report, str]:
    """Run ``job`` in the Ray cluster of this pod, or continue it; returns its report and where its files are.

    Raises:
        UserError: for anything wrong with the job, its data or its model.
        InfrastructureFailed: if the same again may go well.
        RunFailed: if the run ended badly otherwise.
        Stopped: if it saved and stopped because it was asked to.
    """
    assert job.spec.storage is not None, "the operator fills it in"
    storage_uri = job.spec.storage.uri
    uri = open_run(job, storage_uri).store.uri
    progress = TrainingProgress(run_uri=uri)
    writer = StatusWriter(progress, patch_of(job))
    last_update: Callable[[TrainingProgress], None] | None = None
    ray_job = os.environ.get(ENV_RAY_JOB)
    # To the last word on its status: the preStop hook waits for that, and then for KubeRay to hear of the exit code.
    with present("driver"):
        try:
            _check_ray()
            report = run_job(
                job,
                storage_uri=storage_uri,
                workers=job.spec.compute.workers,
                observer=StatusObserver(observer, writer),
            )
            last_update = TrainingProgress.succeed
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
    """See that the image's Ray is the one that was asked for, and that KubeRay guards its cluster.

    Raises:
        UserError: if it is another version.
        InfrastructureFailed: if anybody in the cluster's network could submit code to this Ray cluster.
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
