"""The jobs and pods that the API server stores, reduced to the fields that the commands need."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from promptintern_api.contract import ENV_RAY_JOB, retry_request
from promptintern_api.status import AttemptStatus, Condition, Phase, PromptInternJobStatus
from pydantic import ValidationError

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A PromptInternJob in a cluster."""

    name: str
    namespace: str
    uid: str
    generation: int
    created: datetime
    is_deleting: bool
    spec: Document
    status: PromptInternJobStatus
    document: Document = field(repr=False)

    @classmethod
    def from_document(cls, document: Document) -> "Job":
        """Return the job that ``document`` of the API server describes.

        Parts of the status that this version of the program cannot read are left out.
        """
        meta = document["metadata"]
        return cls(
            name=meta["name"],
            namespace=meta["namespace"],
            uid=meta["uid"],
            generation=meta.get("generation", 1),
            created=datetime.fromisoformat(meta["creationTimestamp"]),
            is_deleting="deletionTimestamp" in meta,
            spec=document.get("spec") or {},
            status=_parse_readable(document.get("status") or {}),
            document=document,
        )

    @property
    def is_over(self) -> bool:
        """Whether the job has succeeded or failed."""
        return self.status.phase in (Phase.SUCCEEDED, Phase.FAILED)

    @property
    def is_refused(self) -> bool:
        """Whether the job was refused, which means that the user has to correct it."""
        failed = self.condition("Failed")
        return self.status.phase is Phase.REFUSED or (
            failed is not None and failed.status == "True" and failed.reason == "Refused"
        )

    @property
    def is_settled(self) -> bool:
        """Whether the job has ended or its newest spec was refused, so that nothing changes until the user acts."""
        accepted = self.condition("Accepted")
        newest = accepted is None or accepted.observed_generation in (None, self.generation)
        return not self.has_pending_retry and (self.is_over or (self.status.phase is Phase.REFUSED and newest))

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of type ``kind``, or None if the job has none."""
        return next((condition for condition in self.status.conditions if condition.type == kind), None)

    def attempt(self, number: int | None = None) -> AttemptStatus | None:
        """Return attempt ``number`` (default: the newest), or None if the attempt does not exist."""
        attempts = sorted(self.status.attempts, key=lambda attempt: attempt.number)
        if number is None:
            return attempts[-1] if attempts else None
        return next((attempt for attempt in attempts if attempt.number == number), None)

    @property
    def has_unobserved_spec(self) -> bool:
        """Whether the operator has yet to observe the newest spec of the job."""
        return (self.status.observed_generation or 0) < self.generation

    @property
    def has_pending_retry(self) -> bool:
        """Whether a retry was requested to which the operator has yet to react."""
        return retry_request(self.document["metadata"].get("annotations")) not in ("", self.status.handled_retry)


def _parse_readable(document: Document) -> PromptInternJobStatus:
    """Return the job status in ``document``, without the parts that this version cannot read."""
    readable = copy.deepcopy(dict(document))
    while True:
        try:
            return PromptInternJobStatus.model_validate(readable)
        except ValidationError as error:
            problem = error.errors()[0]
            # An object that lacks a required field is removed as a whole.
            path = problem["loc"][:-1] if problem["type"] == "missing" else problem["loc"]
            if not _remove(readable, path):
                return PromptInternJobStatus()


def _remove(node: Any, path: Sequence[int | str]) -> bool:
    """Remove the value at ``path`` in ``node`` or, if absent, its nearest ancestor. Return whether one existed."""
    steps: list[tuple[Any, int | str]] = []
    for part in path:
        exists = part in node if isinstance(node, dict) else isinstance(node, list) and part in range(len(node))
        if not exists:
            break
        steps.append((node, part))
        node = node[part]
    if steps:
        parent, part = steps[-1]
        del parent[part]
    return bool(steps)


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod of a job."""

    name: str
    uid: str
    created: datetime
    is_deleting: bool
    phase: str
    ray_job: str | None
    """The name of the attempt's RayJob, or None for a preflight pod."""
    running_containers: frozenset[str]
    """The names of the containers that are running."""
    waiting_reason: str | None
    """The reason why the pod is not running yet, or None if its status gives none."""

    @classmethod
    def from_document(cls, document: Document) -> "Pod":
        """Return the pod that ``document`` of the API server describes."""
        meta, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
        containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
        variables = [variable for container in containers for variable in container.get("env") or []]
        states = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            created=datetime.fromisoformat(meta["creationTimestamp"]),
            is_deleting="deletionTimestamp" in meta,
            phase=status.get("phase") or "Pending",
            ray_job=next((variable.get("value") for variable in variables if variable["name"] == ENV_RAY_JOB), None),
            running_containers=frozenset(state["name"] for state in states if "running" in (state.get("state") or {})),
            waiting_reason=_waiting_reason(status, states),
        )


def _waiting_reason(status: Document, states: Sequence[Document]) -> str | None:
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
    waiting = [state["state"]["waiting"] for state in states if "waiting" in (state.get("state") or {})]
    return next(
        (": ".join(filter(None, (w.get("reason"), w.get("message")))) for w in waiting if w.get("reason")), None
    )


def newest(pods: Sequence[Pod]) -> Pod | None:
    """Return the newest pod that is not being deleted, or else the newest pod; return None if ``pods`` is empty."""
    return max(pods, key=lambda pod: (not pod.is_deleting, pod.created, pod.uid), default=None)


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
