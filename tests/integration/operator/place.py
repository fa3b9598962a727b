"""The environment of these tests: an API server with the chart, a small KubeRay, and operators."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.api_server import ApiServer
from tests.cluster.client import wait_for
from tests.integration.operator.chart import Release, create_namespace, install
from tests.integration.operator.kuberay import FakeKubeRay, Life
from tests.integration.operator.process import Operator
from tests.integration.operator.requests import EVENTS, JOBS, RAY_JOBS, Body, Requests, administrator
from tests.unit.api.documents import small_job, with_changes


class Place:
    """The environment of one file of tests."""

    def __init__(
        self, server: ApiServer, release: Release, kuberay: FakeKubeRay, requests: Requests, folder: Path
    ) -> None:
        self.server = server
        self.release = release
        self.kuberay = kuberay
        self.requests = requests
        self._folder = folder
        self._operators: list[Operator] = []

    def operator(self, name: str = "operator-0", **settings: Any) -> Operator:
        """Return an operator that is not started yet; it ends with the place."""
        operator = Operator(self.release, self._folder, name, **({"retry_seconds": 0.5} | settings))
        self._operators.append(operator)
        return operator

    def end_operators(self) -> None:
        for each in self._operators:
            each.kill()
        self._operators.clear()

    def namespace(self) -> "Tenant":
        """Create a namespace."""
        return Tenant(self, create_namespace(self.requests))


class Tenant:
    """A namespace and the jobs in it."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._requests = place, place.requests
        self.name = name

    def submit(self, job: str, *lives: Life, labels: dict[str, str] | None = None, **spec: Any) -> None:
        """Create a job; ``lives`` are the lives of its attempts."""
        for number, life in enumerate(lives, start=1):
            self._place.kuberay.lives[f"{job}-a{number}"] = life
        document = with_changes(small_job(), {f"spec.{path.replace('__', '.')}": value for path, value in spec.items()})
        document["metadata"] = {"name": job, **({"labels": labels} if labels else {})}
        self._requests.ask("POST", JOBS.format(self.name), document)

    def path(self, job: str) -> str:
        return f"{JOBS.format(self.name)}/{job}"

    def find(self, job: str) -> Body | None:
        """Return the job, or None once it is gone."""
        return self._requests.find(self.path(job))

    def status(self, job: str) -> Body:
        return dict((self.find(job) or {}).get("status") or {})

    def change(self, job: str, **spec: Any) -> None:
        """Change the spec, as a user does with `kubectl apply`."""
        self._requests.merge(self.path(job), {"spec": spec})

    def delete(self, job: str) -> None:
        self._requests.ask("DELETE", self.path(job))

    def wait(self, job: str, phase: str, seconds: float = 30) -> Body:
        """Wait for ``phase`` and return the job's status."""

        def in_phase() -> Body | None:
            status = self.status(job)
            return status if status.get("phase") == phase else None

        try:
            return wait_for(in_phase, seconds, f"{job} to be {phase}") or {}
        except TimeoutError as error:
            raise TimeoutError(f"{error}\nstatus: {self.status(job)}") from None

    def condition(self, job: str, kind: str) -> tuple[str, str, str]:
        """Return status, reason and message of a condition."""
        conditions = [c for c in self.status(job).get("conditions", []) if c["type"] == kind]
        return (
            (conditions[0]["status"], conditions[0]["reason"], conditions[0]["message"]) if conditions else ("", "", "")
        )

    def wait_for_condition(self, job: str, kind: str, reason: str, seconds: float = 30) -> str:
        """Wait until the condition's reason is ``reason`` and return its message."""
        wait_for(lambda: self.condition(job, kind)[1] == reason, seconds, f"{job}: {kind} to be {reason}")
        return self.condition(job, kind)[2]

    def ray_jobs(self) -> list[str]:
        """Return the names of the existing RayJobs."""
        return sorted(item["metadata"]["name"] for item in self._requests.items(RAY_JOBS.format(self.name)))

    def events(self, job: str) -> list[tuple[str, str]]:
        """Return reason and note of the job's Events, in order."""
        items = [e for e in self._requests.items(EVENTS.format(self.name)) if e["regarding"]["name"] == job]
        return [(e["reason"], e["note"]) for e in sorted(items, key=lambda each: str(each["eventTime"]))]

    def attempts(self, job: str) -> list[str]:
        """Return the outcomes of the job's attempts."""
        return [attempt.get("outcome", "") for attempt in self.status(job).get("attempts", [])]

    def created_ray_jobs(self, job: str) -> dict[str, int]:
        """Count the RayJobs that were ever created for each attempt."""
        return {
            name: len(uids)
            for (ns, name), uids in self._place.kuberay.ray_jobs.items()
            if ns == self.name and name.startswith(f"{job}-a")
        }


@contextmanager
def place_in(folder: Path, *namespaces: str) -> Iterator[Place]:
    """Create a place below ``folder`` whose chart serves ``namespaces``, which are created, or the whole cluster."""
    with ApiServer(folder / "api") as server:
        context = administrator(server)
        requests = Requests(server.url, context)
        for name in namespaces:
            requests.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        release = install(
            server,
            requests,
            "defaultStorage.uri=s3://platform/runs",
            *(f"namespaces[{index}]={name}" for index, name in enumerate(namespaces)),
        )
        with FakeKubeRay(server.url, context) as fake:
            place = Place(server, release, fake, requests, folder)
            try:
                yield place
            finally:
                place.end_operators()
        assert not fake.problems, fake.problems
