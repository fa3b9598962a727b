"""The location of a job's run in storage, and access to the run with the user's own AWS credentials."""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from promptintern_api.compute import AddressingStyle
from promptintern_api.contract import ADAPTER_FOLDER

from promptintern.cluster.objects import Job
from promptintern.errors import RunFailed, UserError
from promptintern.storage.options import S3Options
from promptintern.storage.retry import RetryPolicy
from promptintern.storage.store import Store, open_store
from promptintern.uris import display_uri

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""The environment variables of AWS's tools that name an S3 server, the more specific one first."""
_PATIENCE_SECONDS = 20.0
"""The number of seconds for which a failed storage request is retried: fewer than in a run, because a user waits."""


@dataclass(frozen=True, kw_only=True)
class RunLocation:
    """The location of a run's folder in storage: its URI, and the endpoint and region of the S3 server."""

    uri: str
    """The URI of the run's folder."""
    endpoint: str | None
    """The endpoint that the user named."""
    region: str | None
    addressing_style: AddressingStyle | None = None
    job_endpoint: str | None = None
    """The endpoint that the job names. Nothing is signed for it unless the user names it too."""
    is_endpoint_unknown: bool = False
    """Whether the job does not say which S3 server holds the run, so that it need not be AWS."""

    def open(self) -> Store:
        """Open the run's folder.

        Raises:
            UserError: if the folder is not on this machine, but on a volume of the job's pods, or if only the job names
                the S3 server.
        """
        if self.endpoint is None and self.job_endpoint is not None and self.uri.startswith("s3://"):
            raise UserError.at(
                "spec.storage.endpoint",
                f"is {self.job_endpoint}. Requests to this server would carry a signature of your AWS credentials, and "
                "the server was chosen by whoever wrote the job. If you trust it, "
                f"give --endpoint {self.job_endpoint}, or set AWS_ENDPOINT_URL_S3 to it; if only pods can reach it, "
                "forward its port (kubectl port-forward) and give --endpoint http://127.0.0.1:PORT",
            )
        if self.uri.startswith("file://") and not Path(display_uri(self.uri)).is_dir():
            raise UserError.at(
                self.uri,
                "is on the volume of the job's pods (spec.compute.modelCache); mount that PersistentVolumeClaim in a "
                "pod and copy the files from there, for example with kubectl cp",
            )
        policy = RetryPolicy.from_environment()
        if policy == RetryPolicy():
            policy = RetryPolicy(deadline=_PATIENCE_SECONDS)
        options = S3Options(endpoint=self.endpoint, region=self.region, addressing_style=self.addressing_style)
        return open_store(self.uri, s3=options, policy=policy)

    @contextlib.contextmanager
    def hinting(self) -> Iterator[None]:
        """Add the likely cause to the message of a storage failure inside this block."""
        try:
            yield
        except RunFailed as error:
            hint = self._hint()
            raise RunFailed(f"{error}{hint}") from None

    def _hint(self) -> str:
        if self.is_endpoint_unknown:
            return ". The job does not say which S3 server it uses; if it is not AWS, give --endpoint URL"
        host = urlsplit(self.endpoint or "").hostname
        if host and not _is_resolvable(host):
            return (
                f". This machine cannot resolve {host}; if only pods can, forward its port (kubectl port-forward) and "
                "give --endpoint http://127.0.0.1:PORT"
            )
        return ""


def _is_resolvable(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def locate_run(job: Job, *, endpoint: str | None = None) -> RunLocation:
    """Return the location of the run of ``job``.

    The storage is taken from the first place that names one: the spec, the status, or the outputs that the trainer
    reported.

    Args:
        job: The job.
        endpoint: The URL at which this machine reaches the S3 server, or None to read it from the environment.

    Raises:
        UserError: if no storage is named anywhere.
    """
    endpoint = endpoint or next(filter(None, map(os.environ.get, _ENDPOINT_VARIABLES)), None)
    storage = job.spec.get("storage")
    if storage is None and job.status.storage is not None:
        storage = job.status.storage.to_wire()
    folder = f"{job.namespace}/{job.name}-{job.uid[:8]}"
    if storage:
        return RunLocation(
            uri=f"{storage['uri'].rstrip('/')}/{folder}",
            endpoint=endpoint,
            region=storage.get("region"),
            addressing_style=AddressingStyle(style) if (style := storage.get("addressingStyle")) else None,
            job_endpoint=storage.get("endpoint"),
        )
    outputs = job.status.training.outputs if job.status.training else None
    if outputs and outputs.adapter and outputs.adapter.endswith(f"/{ADAPTER_FOLDER}"):
        return RunLocation(
            uri=outputs.adapter.removesuffix(f"/{ADAPTER_FOLDER}"),
            endpoint=endpoint,
            region=None,
            is_endpoint_unknown=endpoint is None,
        )
    raise UserError.at(
        f"PromptInternJob {job.name}",
        "does not say where its run is stored: spec.storage is not set, and the operator has not accepted the job yet",
    )
