"""A well-behaved tenant, whose jobs must not be delayed by the objects of another tenant."""

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

from tests.integration.operator.place import Place, Tenant

_PATIENCE_SECONDS = 180.0
"""The time after which a job that has not ended is reported. The fake KubeRay handles one RayJob at a time."""


@dataclass
class Delays:
    """The times in seconds from the creation of jobs to their checks and to their RayJobs."""

    check: list[float] = field(default_factory=list)
    ray_job: list[float] = field(default_factory=list)


class Neighbour:
    """A thread that submits a job every ``period`` seconds, deletes jobs that have ended, and measures delays."""

    def __init__(self, place: Place, *, period: float) -> None:
        self.tenant: Tenant = place.namespace()
        self.period = period
        self.load = ""
        """The name of the load under which jobs are created now; jobs under no load's name are not measured."""
        self.problems: list[str] = []
        self._place = place
        self._delays: defaultdict[str, Delays] = defaultdict(Delays)
        self._open: dict[str, tuple[float, str]] = {}
        """The time of creation and the load of each job that has not ended."""
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="neighbour", daemon=True)

    def start(self) -> None:
        """Begin to submit jobs."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, once the last job has ended."""
        self._is_over.set()
        self._thread.join(2 * _PATIENCE_SECONDS)

    def take_delays(self) -> dict[str, Delays]:
        """Return the delays of the jobs that have ended since the last call, by load."""
        with self._lock:
            delays, self._delays = self._delays, defaultdict(Delays)
        return dict(delays)

    def uid(self) -> str:
        """Return the UID of a job that has not ended, or of none if all have ended."""
        jobs = [self.tenant.find(job) for job in list(self._open)]
        return next((str(job["metadata"]["uid"]) for job in jobs if job is not None), "none")

    def _run(self) -> None:
        number = 0
        while not self._is_over.is_set() or self._open:
            if not self._is_over.is_set():
                job, number = f"good-{number}", number + 1
                self._open[job] = time.monotonic(), self.load
                self.tenant.submit(job)
            next_time = time.monotonic() + self.period
            self._finish_jobs()
            self._is_over.wait(max(0.0, next_time - time.monotonic()))
            if self._is_over.is_set():
                time.sleep(0.2)

    def _finish_jobs(self) -> None:
        namespace, fakes = self.tenant.name, self._place.kuberay
        for job, (created, load) in list(self._open.items()):
            if (namespace, job) in fakes.ended:
                with self._lock:
                    if load:
                        delays = self._delays[load]
                        delays.check.append(fakes.seen_at["Job", namespace, f"{job}-check-1"] - created)
                        delays.ray_job.append(fakes.seen_at["RayJob", namespace, f"{job}-a1"] - created)
                    del self._open[job]
                phase = self.tenant.status(job).get("phase")
                if phase != "Succeeded":
                    self.problems.append(f"job {job} of the other tenant ended as {phase}")
                self.tenant.delete(job)
            elif time.monotonic() - created > _PATIENCE_SECONDS:
                del self._open[job]
                status = self.tenant.status(job)
                self.problems.append(f"job {job} of the other tenant did not end in time: {status}")
