"""The client through which the commands send requests to a cluster; it uses kubectl's kubeconfig."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import urllib3.exceptions
import yaml
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.config.kube_config import KubeConfigMerger
from kubernetes.stream import stream
from promptintern_api.contract import LABEL_JOB, LABEL_ROLE
from promptintern_api.kind import GROUP, PLURAL, VERSION

from promptintern.cluster.api_errors import NotFound, Unreachable, translate_error
from promptintern.cluster.objects import Document, Job, Pod
from promptintern.errors import Problem, RunFailed, UserError

FIELD_MANAGER = "promptintern-cli"
_TIMEOUT = (5, 30)
_WATCH_SECONDS = 20
_SILENT_SECONDS = 3600
"""The read timeout, in seconds, while a log is followed: after this time without output, following ends."""
_EXEC_SECONDS = 60.0
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Access:
    """Access to an API server: a client with the user's credentials, the default namespace, and the server's name."""

    api: Any
    """The ``kubernetes.client.ApiClient`` that holds the credentials."""
    namespace: str
    server: str
    """The name by which messages refer to the API server."""


def connect(*, context: str | None = None, namespace: str | None = None) -> "Cluster":
    """Return a client for the cluster in $KUBECONFIG or ~/.kube/config or, in a pod with neither, for its own cluster.

    Args:
        context: The name of the kubeconfig context; by default, the current context.
        namespace: The namespace of the jobs; by default, the namespace of the context.

    Raises:
        UserError: if no kubeconfig exists, or the kubeconfig cannot be used.
    """
    files = _kubeconfig_files()
    if files:
        access = _from_kubeconfig(files, context)
    elif context is None and (_SERVICE_ACCOUNT / "token").exists() and "KUBERNETES_SERVICE_HOST" in os.environ:
        access = _from_service_account()
    else:
        path = os.environ.get("KUBECONFIG")
        raise UserError.at(
            "kubeconfig",
            f"does not exist at {path or '~/.kube/config'}; set KUBECONFIG to the file that your cluster's "
            "administrator gave you",
        )
    return Cluster(access, namespace=namespace or access.namespace)


def _kubeconfig_files() -> list[str]:
    values = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    paths = [Path(value).expanduser() for value in values if value] or [Path("~/.kube/config").expanduser()]
    return [str(path) for path in paths if path.is_file()]


def _from_kubeconfig(files: Sequence[str], context: str | None) -> Access:
    where, paths = f"kubeconfig {' and '.join(files)}", os.pathsep.join(files)
    configuration = client.Configuration()
    configuration.retries = False
    try:
        active = _select_context(paths, context, where)
        with _captured_errors() as errors:
            api = config.new_client_from_config(
                config_file=paths, context=active["name"], client_configuration=configuration, persist_config=False
            )
    except (config.ConfigException, yaml.YAMLError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError.at(where, f"cannot be used: {_first_line(error)}") from None
    if errors:  # A login program failed: without its token, every request would be refused.
        raise UserError.at(where, f"context {active['name']}: the login failed: {errors[0]}")
    return Access(
        api=api,
        namespace=(active.get("context") or {}).get("namespace") or "default",
        server=f"the API server {configuration.host} (context {active['name']})",
    )


def _select_context(paths: str, requested: str | None, where: str) -> Any:
    """Return the context named ``requested``, or the current context if ``requested`` is None.

    Raises:
        UserError: if the context does not exist, or no current context is set.
    """
    merged = KubeConfigMerger(paths).config
    if merged is None:
        raise config.ConfigException("No configuration found.")
    contexts = [entry.value for entry in merged["contexts"].value]
    name = requested if requested is not None else merged.safe_get("current-context")
    names = [context["name"] for context in contexts]
    if not name:
        raise UserError.at(where, f"has no current context; give --context NAME; {_suggest('', names)}")
    context = next((context for context in contexts if context["name"] == name), None)
    if context is None:
        raise UserError.at("--context" if requested else where, f"no context is named {name}; {_suggest(name, names)}")
    return context


def _first_line(error: Exception) -> str:
    text = str(error).strip().removeprefix("Invalid kube-config file. ") or type(error).__name__
    return text.splitlines()[0]


def _from_service_account() -> Access:
    configuration = client.Configuration()
    configuration.retries = False
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise UserError.at("the pod's own credentials", f"cannot be used: {error}") from None
    file = _SERVICE_ACCOUNT / "namespace"
    return Access(
        api=client.ApiClient(configuration),
        namespace=file.read_text().strip() if file.exists() else "default",
        server=f"the API server {configuration.host} (this pod's)",
    )


@contextlib.contextmanager
def _captured_errors() -> Iterator[list[str]]:
    """Provide a list that collects the errors that the Kubernetes library logs inside this block but does not raise."""
    errors: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                errors.append(record.getMessage().splitlines()[0])

    root, listener = logging.getLogger(), Listener()
    root.addHandler(listener)
    try:
        yield errors
    finally:
        root.removeHandler(listener)


def _suggest(name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"these exist: {', '.join(sorted(names)[:10])}" if names else "none exists"


class Cluster:
    """A client for one namespace of a cluster. Every method may raise the exceptions of ``api_errors``."""

    def __init__(self, access: Access, *, namespace: str) -> None:
        self.namespace = namespace
        self.server = access.server
        self._api = access.api
        self._custom = client.CustomObjectsApi(access.api)

    @cached_property
    def _core(self) -> Any:
        """The client of pods. Its import takes longer than a request about a job, so it is imported on first use."""
        return client.CoreV1Api(self._api)

    # Jobs

    def job(self, name: str) -> Job:
        """Return the job ``name``. If no such job exists, raise ``NotFound``; the message suggests similar names."""
        try:
            with self._translating_errors(f"PromptInternJob {name}"):
                return Job.from_document(
                    self._custom.get_namespaced_custom_object(*self._jobs, name, _request_timeout=_TIMEOUT)
                )
        except NotFound as error:
            if not error.problems[0].where.startswith("PromptInternJob"):
                raise
            raise NotFound([Problem(where=f"PromptInternJob {name}", message=self._not_found_message(name))]) from None

    def _not_found_message(self, name: str) -> str:
        try:
            names = [job.name for job in self.jobs()]
        except (UserError, RunFailed):
            return f"does not exist in namespace {self.namespace}"
        return f"does not exist in namespace {self.namespace}; {_suggest(name, names)}"

    def jobs(self, *, all_namespaces: bool = False) -> list[Job]:
        """Return the jobs of the client's namespace, or of all namespaces, sorted by namespace and name."""
        with self._translating_errors("PromptInternJobs"):
            if all_namespaces:
                answer = self._custom.list_cluster_custom_object(GROUP, VERSION, PLURAL, _request_timeout=_TIMEOUT)
            else:
                answer = self._custom.list_namespaced_custom_object(*self._jobs, _request_timeout=_TIMEOUT)
        return sorted(
            (Job.from_document(document) for document in answer["items"]), key=lambda job: (job.namespace, job.name)
        )

    def create(self, document: Document, *, dry_run: bool = False) -> Job:
        """Create the job that ``document`` describes, and return the job. The API server refuses unknown fields."""
        with self._translating_errors(f"PromptInternJob {document['metadata']['name']}"):
            return Job.from_document(
                self._custom.create_namespaced_custom_object(
                    *self._jobs, dict(document), **_write_options(dry_run=dry_run)
                )
            )

    def replace(self, document: Document, *, dry_run: bool = False) -> Job:
        """Replace the job of the same name with ``document``, unless it was changed since ``document`` was read."""
        name = document["metadata"]["name"]
        with self._translating_errors(f"PromptInternJob {name}"):
            return Job.from_document(
                self._custom.replace_namespaced_custom_object(
                    *self._jobs, name, dict(document), **_write_options(dry_run=dry_run)
                )
            )

    def patch(self, name: str, change: Document, *, dry_run: bool = False) -> Job:
        """Apply ``change``, a JSON merge patch, to the job ``name``, and return the changed job."""
        with self._translating_errors(f"PromptInternJob {name}"):
            return Job.from_document(
                self._custom.patch_namespaced_custom_object(
                    *self._jobs,
                    name,
                    dict(change),
                    _content_type="application/merge-patch+json",
                    **_write_options(dry_run=dry_run),
                )
            )

    def watch(self, name: str, version: str) -> Iterator[tuple[bool, Job]]:
        """Yield whether job ``name`` was deleted, and the job, for each change after the resourceVersion ``version``.

        The watch ends after some seconds.
        """
        events = watch.Watch().stream(
            self._custom.list_namespaced_custom_object,
            *self._jobs,
            field_selector=f"metadata.name={name}",
            resource_version=version,
            timeout_seconds=_WATCH_SECONDS,
            _request_timeout=(_TIMEOUT[0], _WATCH_SECONDS + 10),
        )
        with self._translating_errors(f"PromptInternJob {name}"):
            for event in events:
                if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                    yield event["type"] == "DELETED", Job.from_document(event["raw_object"])

    @property
    def _jobs(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL

    # The pods of a job

    def pods(self, job: str, role: str) -> list[Pod]:
        """Return the pods of ``job`` that have the role ``role``: head, worker or preflight."""
        with self._translating_errors(f"pods of {job}"):
            pods = self._core.list_namespaced_pod(
                self.namespace,
                label_selector=f"{LABEL_JOB}={job},{LABEL_ROLE}={role}",
                _request_timeout=_TIMEOUT,
            )
        return [Pod.from_document(document) for document in self._api.sanitize_for_serialization(pods)["items"]]

    def pod_log(self, pod: str, container: str, *, follow: bool) -> Iterator[bytes]:
        """Yield the log of a container in chunks; with ``follow``, continue until the container ends."""
        with self._translating_errors(f"log of pod {pod}"):
            answer = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                follow=follow,
                _preload_content=False,
                _request_timeout=(_TIMEOUT[0], _SILENT_SECONDS) if follow else _TIMEOUT,
            )
            if not 200 <= answer.status < 300:
                raise ApiException(http_resp=answer)
            try:
                yield from answer.stream(1 << 16, decode_content=False)
            finally:
                answer.release_conn()

    def execute(self, pod: str, container: str, command: Sequence[str]) -> bytes:
        """Run ``command`` in a container, and return the standard output of the command.

        Raises:
            Forbidden: if the user may not exec into the pod.
            RunFailed: if the command fails or does not end in time.
        """
        with self._translating_errors(f"exec in pod {pod}"):
            socket = stream(
                self._core.connect_get_namespaced_pod_exec,
                pod,
                self.namespace,
                container=container,
                command=list(command),
                stdout=True,
                stderr=True,
                stdin=False,
                tty=False,
                _preload_content=False,
                binary=True,
            )
        try:
            return _read_output(socket, pod)
        finally:
            socket.close()

    @contextlib.contextmanager
    def _translating_errors(self, where: str) -> Iterator[None]:
        try:
            yield
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise translate_error(error, server=self.server, where=where) from None


def _write_options(*, dry_run: bool) -> dict[str, Any]:
    return {
        "field_manager": FIELD_MANAGER,
        "field_validation": "Strict",
        "_request_timeout": _TIMEOUT,
        **({"dry_run": "All"} if dry_run else {}),
    }


def _read_output(socket: Any, pod: str) -> bytes:
    deadline = time.monotonic() + _EXEC_SECONDS
    stdout, stderr = bytearray(), bytearray()
    try:
        while socket.is_open() and time.monotonic() < deadline:
            socket.update(timeout=1)
            stdout += socket.read_channel(1)
            stderr += socket.read_channel(2)
    except Exception as error:  # noqa: BLE001 -- a connection breaks in many ways
        raise Unreachable(f"the connection to pod {pod} broke: {_first_line(error)}") from None
    if socket.is_open():
        raise Unreachable(f"pod {pod} did not answer within {_EXEC_SECONDS:.0f} s")
    failure = _exec_failure(socket)
    if failure:
        message = stderr.decode("utf-8", "replace").strip()
        raise RunFailed(f"pod {pod}: {message or failure}")
    return bytes(stdout)


def _exec_failure(socket: Any) -> str | None:
    """Return why the command run over ``socket`` failed, or None if it succeeded or no status was received."""
    text = socket.read_channel(3)
    try:
        status = yaml.safe_load(text or b"")
    except yaml.YAMLError:
        return None
    if not isinstance(status, dict) or status.get("status") == "Success":
        return None
    return str(status.get("message") or "the command failed")
