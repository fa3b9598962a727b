"""One batch of the fuzzer: attack running jobs, create hostile ones, and check that the operator handles them all."""

import ssl
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from promptintern_api.contract import LABEL_JOB_UID

from tests.cluster.client import wait_for
from tests.integration.operator.fuzz.cases import IMPOSTORS, Case, Step, Target, Targets, draw_case
from tests.integration.operator.fuzz.log import LONGEST_LINE, LogReader
from tests.integration.operator.fuzz.neighbour import Neighbour
from tests.integration.operator.fuzz.schemas import WORKLOADS, Schemas
from tests.integration.operator.kuberay import Check, Life
from tests.integration.operator.place import Place
from tests.integration.operator.process import Operator
from tests.integration.operator.requests import (
    JOBS,
    PODS,
    PREFLIGHTS,
    RAY_JOBS,
    Body,
    Refused,
    Requests,
)

REFUSED = "refused by the API server"
_REPORTING, _SHAKEN = 3, 8
_FOR_EVER = Life(ends="never")
_SETTLE_SECONDS, _STILL_SECONDS = 90.0, 4.0
"""The time within which the operator handles all jobs, and the time after which unchanged jobs are not awaited."""
_OBEY_SECONDS = 90.0
"""The time within which a job under attack obeys. If its RayJob was relabelled, no watch tells that the RayJob is gone,
and the operator asks for it after a minute."""
_ACCEPTED = 0.35
"""The share of all cases that create a job, which is the share of the rate at which ordinary jobs are submitted."""
_ENDED = ("Succeeded", "Failed", "Refused", "Suspended")


@dataclass(kw_only=True)
class Result:
    """What a batch showed."""

    batch: int
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    """The number of cases by kind, and then by outcome."""
    problems: list[str] = field(default_factory=list)
    """Crashes, stuck jobs, and jobs that no longer obey; each with the number of its case."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """What the operator could not read of jobs that the API server had accepted."""
    retried: dict[str, int] = field(default_factory=dict)
    """The number of reconciliations that failed, by error."""
    warnings: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    delays: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """The delays of the other tenant's jobs in seconds, by load and by the awaited object."""
    log_bytes: int = 0
    longest_line: int = 0
    rss_mib: float = 0.0
    peak_mib: float = 0.0
    seconds: float = 0.0


class Batch:
    """The cases ``numbers`` of ``seed``, in a namespace of their own.

    Args:
        place: The API server with the fakes of KubeRay and of the kubelets.
        operator: The operator, which leads and is never restarted.
        neighbour: The tenant whose jobs must not be delayed.
        log: The reader of the operator's log.
        schemas: The schemas of everything that is drawn.
    """

    def __init__(
        self, place: Place, operator: Operator, neighbour: Neighbour, log: LogReader, schemas: Schemas
    ) -> None:
        self._place = place
        self._operator = operator
        self._neighbour = neighbour
        self._log = log
        self._schemas = schemas
        self._skipped = 0
        """The number of objects that the operator has reported as skipped so far."""

    def run(self, seed: int, batch: int, numbers: Sequence[int], *, rate: float, control: float) -> Result:
        """Send the cases at ``rate`` per second, and return what they showed.

        Before, the delays of the other tenant's jobs are measured for ``control`` seconds without any load, and for as
        long with a load of ordinary jobs.
        """
        began, result, pid = time.monotonic(), Result(batch=batch), self._operator.process.pid
        self._team = self._place.namespace()
        self._neighbour.load = "none"
        time.sleep(control)
        self._neighbour.load = "ordinary"
        self._submit_ordinary(int(control * rate * _ACCEPTED), rate * _ACCEPTED)
        self._neighbour.load = ""
        self._targets = self._start_targets(batch)
        self._heads = {target.name: self._head_of(target) for target in self._targets.reporting}
        self._neighbour.load = "hostile"
        accepted = self._send([draw_case(seed, n, self._schemas, self._targets) for n in numbers], result, rate)
        self._neighbour.load = ""
        self._await_jobs(accepted, result)
        self._check_obedience(result)
        self._remove_everything()
        self._read_log(result)
        if not self._operator.alive or self._operator.process.pid != pid:
            result.problems.append("the operator ended")
        elif self._operator.probe() != 200:
            result.problems.append("the operator's /healthz fails")
        else:
            result.rss_mib, result.peak_mib = round(self._operator.rss_mib, 1), round(self._operator.peak_mib, 1)
        result.problems += self._neighbour.problems
        self._neighbour.problems.clear()
        result.delays = {load: asdict(delays) for load, delays in self._neighbour.take_delays().items()}
        result.seconds = round(time.monotonic() - began, 1)
        return result

    def _submit_ordinary(self, count: int, rate: float) -> None:
        """Submit ``count`` ordinary jobs at ``rate`` per second, and wait until they have ended."""
        names, start = [f"ordinary-{index}" for index in range(count)], time.monotonic()
        for index, name in enumerate(names):
            time.sleep(max(0.0, start + index / rate - time.monotonic()))
            self._team.submit(name)
        self._neighbour.load = ""
        for name in names:
            self._team.wait(name, "Succeeded", 120)

    # The jobs under attack

    def _start_targets(self, batch: int) -> Targets:
        reporting = [f"reporting-{batch}-{index}" for index in range(_REPORTING)]
        shaken = [f"shaken-{batch}-{index}" for index in range(_SHAKEN)]
        checked = f"shaken-{batch}-check"
        self._place.kuberay.checks[f"{checked}-check-1"] = Check(seconds=3_600)
        for job in (*reporting, *shaken, checked):
            self._team.submit(job, _FOR_EVER)
        for job in (*reporting, *shaken):
            self._team.wait(job, "Training", 60)
        self._team.wait(checked, "Checking", 60)
        wait_for(lambda: self._items(PODS, self._uid(checked)), 30, "the pod of the check")
        return Targets(
            namespace=self._team.name,
            reporting=tuple(map(self._target, reporting)),
            shaken=tuple(map(self._target, (*shaken, checked))),
            foreign=self._neighbour.uid(),
        )

    def _target(self, job: str) -> Target:
        uid = self._uid(job)
        ray_jobs = self._items(RAY_JOBS, uid)
        dependents = {kind: self._items(kind, uid)[0]["metadata"]["name"] for kind in (PODS, PREFLIGHTS)}
        if not ray_jobs:
            return Target(name=job, uid=uid, dependents=dependents)
        (ray_job,) = ray_jobs
        meta = ray_job["metadata"]
        workload = self._create_workload(job, meta)
        return Target(
            name=job,
            uid=uid,
            dependents=dependents | {RAY_JOBS: meta["name"], WORKLOADS: workload},
            cluster=ray_job["status"]["rayClusterName"],
        )

    def _create_workload(self, job: str, ray_job: Body) -> str:
        owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": ray_job["name"], "uid": ray_job["uid"]}
        body = {
            "apiVersion": "kueue.x-k8s.io/v1beta1",
            "kind": "Workload",
            "metadata": {"name": f"workload-{job}", "ownerReferences": [owner | {"controller": True}]},
        }
        self._place.requests.ask("POST", WORKLOADS.format(self._team.name), body)
        return f"workload-{job}"

    def _head_of(self, target: Target) -> Requests:
        """Return requests with a token of the target's head pod."""
        uid = self._team.status(target.name)["currentHeadPodUID"]
        pods = self._items(PODS, target.uid)
        pod = next(item["metadata"]["name"] for item in pods if item["metadata"]["uid"] == uid)
        server = self._place.server
        token = server.token(f"promptintern-{target.name}", self._team.name, pod=pod)
        authority = server.control_plane.authority.own.certificate
        return Requests(server.url, ssl.create_default_context(cafile=str(authority)), token)

    # The attack

    def _send(self, cases: Sequence[Case], result: Result, rate: float) -> dict[str, Case]:
        """Send all cases and return those that created a job, by the name of the job."""
        created: dict[str, Case] = {}
        outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        start = time.monotonic()
        for index, case in enumerate(cases):
            time.sleep(max(0.0, start + index / rate - time.monotonic()))
            answer = self._perform(case)
            if answer is None:
                outcomes[case.kind][REFUSED] += 1
            elif answer.get("kind") == "PromptInternJob" and case.steps[0].method == "POST":
                created[answer["metadata"]["name"]] = case
            else:
                outcomes[case.kind]["accepted"] += 1
        result.outcomes = {kind: dict(counts) for kind, counts in outcomes.items()}
        return created

    def _perform(self, case: Case) -> Body | None:
        """Send the requests of a case, and return the answer to the first one, or None if that one is refused."""
        answer: Body | None = None
        for step in case.steps:
            try:
                latest = self._ask(step, case.target)
            except (Refused, OSError):
                return answer
            answer = answer or latest
        return answer

    def _ask(self, step: Step, target: str | None) -> Body:
        requests = self._heads[target] if step.is_by_head and target is not None else self._place.requests
        return requests.ask_raw(step.method, step.path, step.body, step.content_type)

    # The checks

    def _await_jobs(self, created: dict[str, Case], result: Result) -> None:
        """Wait until the operator has handled all jobs, and record the outcome of each of them."""
        last: dict[str, str] = {}
        began = changed = time.monotonic()
        while time.monotonic() - began < _SETTLE_SECONDS:
            jobs = {job["metadata"]["name"]: job for job in self._place.requests.items(JOBS.format(self._team.name))}
            outcomes = {name: _outcome(jobs.get(name)) for name in created}
            if outcomes != last:
                last, changed = outcomes, time.monotonic()
            is_settled = all(outcome.split(":")[0] in (*_ENDED, "deleted") for outcome in outcomes.values())
            is_handled = all(not outcome.startswith("stuck") for outcome in outcomes.values())
            if is_settled or (is_handled and time.monotonic() - changed > _STILL_SECONDS):
                break
            time.sleep(1)
        for name, case in created.items():
            counts = result.outcomes.setdefault(case.kind, {})
            counts[last[name]] = counts.get(last[name], 0) + 1
            is_lost = last[name] == "deleted" and b"ttlSecondsAfterFinished" not in case.steps[0].body
            if is_lost or last[name].startswith("stuck"):
                result.problems.append(f"case {case.number} ({case.kind}): job {name} is {last[name]}")

    def _check_obedience(self, result: Result) -> None:
        """Suspend the jobs under attack, or set a deadline, and record those that do not obey."""
        self._remove_impostors()
        names = [target.name for target in (*self._targets.reporting, *self._targets.shaken)]
        timed = names[0]
        for name in names:
            try:
                self._team.change(name, **({"activeDeadlineSeconds": 1} if name == timed else {"suspend": True}))
            except Refused as refused:
                if refused.status != 404:  # a case has set a time to live
                    raise

        def disobedient() -> list[str]:
            jobs = {job["metadata"]["name"]: job for job in self._place.requests.items(JOBS.format(self._team.name))}
            return [
                f"{name}: {_outcome(jobs.get(name))}"
                for name in names
                if _outcome(jobs.get(name)).split(":")[0] not in _allowed(name, timed)
            ]

        try:
            wait_for(lambda: not disobedient(), _OBEY_SECONDS, "all jobs under attack to obey")
        except TimeoutError:
            result.problems += [f"does not obey: {text}" for text in disobedient()]

    def _read_log(self, result: Result) -> None:
        excerpt = self._log.read()
        result.log_bytes, result.longest_line = excerpt.size, excerpt.longest
        result.skipped, result.warnings = excerpt.skipped, dict(excerpt.others)
        result.unreadable = excerpt.unreadable
        result.retried = dict(Counter(error[:300] for error in excerpt.errors.values()))
        result.problems += [f"a traceback: {text}" for text in excerpt.tracebacks]
        result.problems += [f"job {job} failed again and again: {error}" for job, error in excerpt.stuck().items()]
        result.problems += [f"skipped without a name: {text}" for text in excerpt.skipped if "/None" in text]
        self._skipped += len(excerpt.skipped)
        if (counted := self._operator.total("promptintern_skipped_objects_total")) != self._skipped:
            result.problems.append(f"{self._skipped} objects were reported as skipped, but {counted:.0f} were counted")
        if excerpt.longest > LONGEST_LINE:
            result.problems.append(f"a line of the log has {excerpt.longest} bytes")

    def _remove_impostors(self) -> None:
        """Delete the pods that only claim to belong to a job, because a job is suspended once all its pods are gone."""
        path, options = PODS.format(self._team.name), {"gracePeriodSeconds": 0}
        for pod in self._place.requests.items(path):
            if pod["metadata"]["name"].startswith(IMPOSTORS):
                self._place.requests.ask("DELETE", f"{path}/{pod['metadata']['name']}", options)

    def _remove_everything(self) -> None:
        requests, options = self._place.requests, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        for kind in (JOBS, RAY_JOBS, PREFLIGHTS, PODS, WORKLOADS):
            path = kind.format(self._team.name)
            requests.ask("DELETE", path, options | {"propagationPolicy": "Background"})
        for kind in (JOBS, RAY_JOBS):
            wait_for(lambda kind=kind: not requests.items(kind.format(self._team.name)), 60, f"{kind} to be empty")

    def _uid(self, job: str) -> str:
        found = self._team.find(job)
        assert found is not None
        return str(found["metadata"]["uid"])

    def _items(self, kind: str, uid: str) -> list[Body]:
        return self._place.requests.items(kind.format(self._team.name), f"{LABEL_JOB_UID}={uid}")


def _outcome(job: Body | None) -> str:
    """Return the phase of a job, with the reason if the job has not ended; it begins with "stuck" if there is none."""
    if job is None:
        return "deleted"
    status, generation = job.get("status") or {}, job["metadata"]["generation"]
    phase = str(status.get("phase"))
    # The conditions of a job that has ended keep the generation at which it ended.
    conditions = [
        c for c in status.get("conditions") or [] if c.get("observedGeneration") == generation or phase in _ENDED[:2]
    ]
    if status.get("observedGeneration") != generation or not conditions:
        return f"stuck: generation {generation}, status of generation {status.get('observedGeneration')}"
    if phase == "Refused":
        return f"Refused: {next(c['reason'] for c in conditions if c['type'] == 'Accepted')}"
    if phase in _ENDED:
        return phase
    return f"{phase}: " + ", ".join(f"{c['type']} {c['reason']}" for c in conditions if c["status"] != "True")


def _allowed(name: str, timed: str) -> tuple[str, ...]:
    """Return the outcomes of a job under attack that obeys. A report of the head pod can end no job."""
    if name == timed:
        return ("Failed",)
    return (
        ("Suspended",) if name.startswith("reporting") else ("Suspended", "Succeeded", "Failed", "Refused", "deleted")
    )
